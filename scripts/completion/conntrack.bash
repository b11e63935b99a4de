# bash completion for conntrack(8), made from its tables of options
_conntrack() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local words='' list='' i
    COMPREPLY=()
    case $prev in
    -L|--dump) words='expect conntrack dying unconfirmed' ;;
    -G|--get) words='expect conntrack' ;;
    -D|--delete) words='expect conntrack' ;;
    -I|--create) words='expect conntrack' ;;
    -E|--event) words='expect conntrack' ;;
    -F|--flush) words='expect conntrack' ;;
    -C|--counter) words='expect conntrack' ;;
    -S|--stats) words='expect conntrack' ;;
    -R|--load-file) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    -s|--orig-src|--src) return ;;
    -d|--orig-dst|--dst) return ;;
    -r|--reply-src) return ;;
    -q|--reply-dst) return ;;
    -p|--protonum) words='tcp udp udplite sctp dccp icmp icmpv6 gre' ;;
    -t|--timeout) return ;;
    -u|--status) list='ASSURED SEEN_REPLY UNSET FIXED_TIMEOUT EXPECTED OFFLOAD HW_OFFLOAD UNREPLIED' ;;
    -e|--event-mask) list='ALL NEW UPDATES DESTROY' ;;
    --tuple-src) return ;;
    --tuple-dst) return ;;
    --mask-src) return ;;
    --mask-dst) return ;;
    -a|--nat-range) return ;;
    -m|--mark) return ;;
    -i|--id) return ;;
    -f|--family) words='ipv4 ipv6' ;;
    -o|--output) list='xml extended timestamp id ktimestamp labels userspace save json' ;;
    -c|--secmark) return ;;
    -b|--buffer-size) return ;;
    -w|--zone) return ;;
    -l|--label) list=$(sed -n "s/^[0-9][0-9]*[[:blank:]]*//p" /etc/xtables/connlabel.conf 2>/dev/null) ;;
    --label-add) list=$(sed -n "s/^[0-9][0-9]*[[:blank:]]*//p" /etc/xtables/connlabel.conf 2>/dev/null) ;;
    --label-del) list=$(sed -n "s/^[0-9][0-9]*[[:blank:]]*//p" /etc/xtables/connlabel.conf 2>/dev/null) ;;
    --orig-zone) return ;;
    --reply-zone) return ;;
    -M|--labelmap) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    --queue-size) return ;;
    --refresh) return ;;
    --key) words='source source,flows source,new source,ended source,packets source,bytes destination destination,flows destination,new destination,ended destination,packets destination,bytes port port,flows port,new port,ended port,packets port,bytes protocol protocol,flows protocol,new protocol,ended protocol,packets protocol,bytes zone zone,flows zone,new zone,ended zone,packets zone,bytes mark mark,flows mark,new mark,ended mark,packets mark,bytes state state,flows state,new state,ended state,packets state,bytes family family,flows family,new family,ended family,packets family,bytes' ;;
    --netns) COMPREPLY=($(compgen -W "$(ls /run/netns 2>/dev/null)" -- "$cur")); return ;;
    --match) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    --by) words='zone netns' ;;
    --state|--role)
        case " ${COMP_WORDS[*]} $prev" in
        *' -p tcp '*--state) words='NONE SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSE SYN_SENT2' ;;
        *' --protonum tcp '*--state) words='NONE SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSE SYN_SENT2' ;;
        *' -p sctp '*--state) words='NONE CLOSED COOKIE_WAIT COOKIE_ECHOED ESTABLISHED SHUTDOWN_SENT SHUTDOWN_RECD SHUTDOWN_ACK_SENT' ;;
        *' --protonum sctp '*--state) words='NONE CLOSED COOKIE_WAIT COOKIE_ECHOED ESTABLISHED SHUTDOWN_SENT SHUTDOWN_RECD SHUTDOWN_ACK_SENT' ;;
        *' -p dccp '*--state) words='NONE REQUEST RESPOND PARTOPEN OPEN CLOSEREQ CLOSING TIMEWAIT IGNORE INVALID' ;;
        *' --protonum dccp '*--state) words='NONE REQUEST RESPOND PARTOPEN OPEN CLOSEREQ CLOSING TIMEWAIT IGNORE INVALID' ;;
        *' -p dccp '*--role) words='client server' ;;
        *' --protonum dccp '*--role) words='client server' ;;
        esac ;;
    esac
    if [[ $list ]]; then
        COMPREPLY=($(compgen -P "${cur%"${cur##*,}"}" -W "$list" -- "${cur##*,}"))
        compopt -o nospace 2>/dev/null
        return
    fi
    [[ $words && $cur != -* ]] && { COMPREPLY=($(compgen -W "$words" -- "$cur")); return; }
    words=''
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -L|--dump) [[ ${COMP_WORDS[i+1]} == e* ]] && words+=' -f --family -o --output --netns' || words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -u --status -z --zero --mask-src --mask-dst -m --mark -f --family -n --src-nat -g --dst-nat -o --output -c --secmark -j --any-nat -w --zone -l --label --orig-zone --reply-zone -M --labelmap --netns --match --count-each --distinct-status' ;;
        -G|--get) [[ ${COMP_WORDS[i+1]} == e* ]] && words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum --netns' || words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -i --id -o --output -l --label --netns' ;;
        -D|--delete) [[ ${COMP_WORDS[i+1]} == e* ]] && words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum --netns' || words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -t --timeout -u --status --mask-src --mask-dst -m --mark -i --id -f --family -n --src-nat -g --dst-nat -o --output -w --zone -l --label --orig-zone --reply-zone -M --labelmap --netns --match --count-each --dry-run --distinct-status' ;;
        -I|--create) [[ ${COMP_WORDS[i+1]} == e* ]] && words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -t --timeout -u --status --tuple-src --tuple-dst --mask-src --mask-dst --netns' || words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -t --timeout -u --status -m --mark -n --src-nat -g --dst-nat -w --zone --label-add --orig-zone --reply-zone --netns' ;;
        -A|--add) words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -t --timeout -u --status -m --mark -n --src-nat -g --dst-nat -w --zone --label-add --orig-zone --reply-zone --netns' ;;
        -U|--update) words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -t --timeout -u --status --mask-src --mask-dst -m --mark -i --id -f --family -n --src-nat -g --dst-nat -o --output -l --label --label-add --label-del -M --labelmap --netns --match --count-each --dry-run --distinct-status' ;;
        -E|--event) [[ ${COMP_WORDS[i+1]} == e* ]] && words+=' -o --output --queue-size --netns --all-netns' || words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -e --event-mask --mask-src --mask-dst -m --mark -f --family -n --src-nat -g --dst-nat -o --output -c --secmark -b --buffer-size -j --any-nat -w --zone -l --label --orig-zone --reply-zone -M --labelmap --queue-size --netns --all-netns' ;;
        -F|--flush) [[ ${COMP_WORDS[i+1]} == e* ]] && words+=' --netns --by' || words+=' -f --family --netns' ;;
        -C|--counter) [[ ${COMP_WORDS[i+1]} == e* ]] && words+=' --netns --by' || words+=' --netns --by --match --count-each --distinct-status' ;;
        -S|--stats) [[ ${COMP_WORDS[i+1]} == e* ]] && words+=' --netns --by' || words+=' --netns --by' ;;
        --top) words+=' -s --orig-src --src -d --orig-dst --dst -r --reply-src -q --reply-dst -p --protonum -u --status --mask-src --mask-dst -m --mark -f --family -n --src-nat -g --dst-nat -c --secmark -j --any-nat -w --zone -l --label --orig-zone --reply-zone -M --labelmap --refresh --key --once --netns' ;;
        -h|--help) words+=' -p --protonum --netns' ;;
        -V|--version) words+=' --netns --by' ;;
        -p|--protonum)
            case ${COMP_WORDS[i+1]} in
            tcp) words+=' --sport --orig-port-src --dport --orig-port-dst --reply-port-src --reply-port-dst --mask-port-src --mask-port-dst --state --tuple-port-src --tuple-port-dst' ;;
            udp) words+=' --sport --orig-port-src --dport --orig-port-dst --reply-port-src --reply-port-dst --mask-port-src --mask-port-dst --tuple-port-src --tuple-port-dst' ;;
            udplite) words+=' --sport --orig-port-src --dport --orig-port-dst --reply-port-src --reply-port-dst --mask-port-src --mask-port-dst --tuple-port-src --tuple-port-dst' ;;
            sctp) words+=' --sport --orig-port-src --dport --orig-port-dst --reply-port-src --reply-port-dst --mask-port-src --mask-port-dst --state --tuple-port-src --tuple-port-dst --orig-vtag --reply-vtag' ;;
            dccp) words+=' --sport --orig-port-src --dport --orig-port-dst --reply-port-src --reply-port-dst --mask-port-src --mask-port-dst --state --tuple-port-src --tuple-port-dst --role' ;;
            icmp) words+=' --icmp-type --icmp-code --icmp-id' ;;
            icmpv6) words+=' --icmpv6-type --icmpv6-code --icmpv6-id' ;;
            gre) words+=' --srckey --orig-key-src --dstkey --orig-key-dst --reply-key-src --reply-key-dst --mask-key-src --mask-key-dst --tuple-key-src --tuple-key-dst' ;;
            esac ;;
        esac
    done
    [[ $words ]] || words='-L --dump -G --get -D --delete -I --create -A --add -U --update -E --event -F --flush -C --counter -S --stats --top -h --help -V --version -R --load-file'
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _conntrack conntrack
