# fish completion for ctbox(8): the box is asked, its programs have completions of their own
complete -c ctbox -f
function __ctbox_program
    set -l words (commandline -opc)
    test (count $words) -gt 1; and contains -- $words[2] conntrack conntrackd nfct
end
function __ctbox_ask
    set -l words (commandline -opc)
    $words --generate-bash-completion 2>/dev/null
end
complete -c ctbox -n __ctbox_program -xa '(__fish_complete_subcommand)'
complete -c ctbox -n 'not __ctbox_program' -xa '(__ctbox_ask)'
complete -c ctbox -n 'not __ctbox_program' -l install -xa '(__fish_complete_directories)'
complete -c ctbox -n 'not __ctbox_program' -l copy -xa '(__fish_complete_directories)'
complete -c ctbox -n 'not __ctbox_program' -l netns -xa '(ls /run/netns 2>/dev/null)'
complete -c ctbox -n 'not __ctbox_program' -l for -xa 'conntrack conntrackd nfct'
