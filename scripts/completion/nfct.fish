# fish completion for nfct(8): COMMAND timeout|helper NAME FAMILY PROTOCOL ...
complete -c nfct -f
function __nfct_at
    test (count (commandline -opc)) -eq $argv[1]
end
function __nfct_word
    set -l words (commandline -opc)
    test (count $words) -ge $argv[1]; and string match -q -- $argv[2] $words[$argv[1]]
end
complete -c nfct -n '__nfct_at 1' -a 'list add delete get flush disable default-set default-get'
complete -c nfct -n '__nfct_at 2' -a 'timeout helper version help'
complete -c nfct -n '__nfct_at 3; and __nfct_word 3 helper' -a 'amanda dhcpv6 ftp mdns rpc rtsp sane slp ssdp tftp tns'
complete -c nfct -n '__nfct_at 3; and __nfct_word 2 "default-*"' -a 'inet inet6'
complete -c nfct -n '__nfct_at 4; and not __nfct_word 2 "default-*"' -a 'inet inet6'
complete -c nfct -n '__nfct_at 4; and __nfct_word 2 "default-*"' -a 'dccp generic gre icmp icmpv6 sctp tcp udp udplite'
complete -c nfct -n '__nfct_at 5; and __nfct_word 3 timeout' -a 'dccp generic gre icmp icmpv6 sctp tcp udp udplite'
complete -c nfct -n '__nfct_at 5; and __nfct_word 3 helper' -a 'tcp udp'
complete -c nfct -s o -x -a json -d 'list and get as JSON'
complete -c nfct -l netns -x -a '(ls /run/netns 2>/dev/null)' -d 'work in this network namespace'
