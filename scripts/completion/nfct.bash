# bash completion for nfct(8): COMMAND timeout|helper NAME FAMILY PROTOCOL ...
_nfct() {
    local cur=${COMP_WORDS[COMP_CWORD]} words= first=4 # where FAMILY stands
    case ${COMP_WORDS[1]} in default-*) first=3 ;; esac
    COMPREPLY=()
    case $COMP_CWORD in
    1) words='list add delete get flush disable default-set default-get' ;;
    2) words='timeout helper version help' ;;
    3) [[ ${COMP_WORDS[2]} == helper ]] && words='amanda dhcpv6 ftp mdns rpc rtsp sane slp ssdp tftp tns' ;;
    esac
    case $((COMP_CWORD - first)) in
    0) words='inet inet6' ;;
    1)
        words='tcp udp'
        [[ ${COMP_WORDS[2]} == timeout ]] && words='dccp generic gre icmp icmpv6 sctp tcp udp udplite'
        ;;
    esac
    case ${COMP_WORDS[COMP_CWORD-1]} in
    -o) words=json ;;
    --netns) words=$(ls /run/netns 2>/dev/null) ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _nfct nfct
