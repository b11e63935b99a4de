# bash completion for conntrackd(8)
_conntrackd() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=
    COMPREPLY=()
    case $prev in
    -C) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    -c | -F | -i | -e | -R) words='ct expect' ;;
    -f) words='internal external' ;;
    -s) words='network cache runtime link rsqueue process queue ct expect metrics helpers export peers' ;;
    -o) words='json' ;;
    esac
    if [[ $words && $cur != -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return
    fi
    COMPREPLY=($(compgen -W '-d -C -c -f -F -i -e -k -s -R -n -B -t -x -o -v -h --check --genkey --json --max-lag --no-sandbox --ready --reload --strict --syntax --top' -- "$cur"))
}
complete -F _conntrackd conntrackd
