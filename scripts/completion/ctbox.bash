# bash completion for ctbox(8): the box is asked, its programs have completions of their own
_ctbox() {
    local cur=${COMP_WORDS[COMP_CWORD]} program=${COMP_WORDS[1]}
    COMPREPLY=()
    if ((COMP_CWORD > 1)); then
        case $program in
        conntrack | conntrackd | nfct)
            declare -F "_$program" >/dev/null || _completion_loader "$program" 2>/dev/null
            COMP_WORDS=("${COMP_WORDS[@]:1}")
            ((COMP_CWORD--))
            declare -F "_$program" >/dev/null && "_$program"
            return
            ;;
        esac
        case ${COMP_WORDS[COMP_CWORD-1]} in
        --install | --copy) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")); return ;;
        -C | --config) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
        --netns) COMPREPLY=($(compgen -W "$(ls /run/netns 2>/dev/null)" -- "$cur")); return ;;
        --for) COMPREPLY=($(compgen -W 'conntrack conntrackd nfct' -- "$cur")); return ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[@]:0:COMP_CWORD}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -F _ctbox ctbox
