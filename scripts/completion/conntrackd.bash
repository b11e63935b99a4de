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
    --owner | --nat-src | --zone | --mark | --src) return ;;
    esac
    if [[ $words && $cur != -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return
    fi
    COMPREPLY=($(compgen -W '-d -C -c -f -F -i -e -k -s -R -n -B -t -x -o -v -h --check --genkey --json --mark --max-lag --nat-src --no-sandbox --owner --ready --reload --src --strict --syntax --top --zone' -- "$cur"))
}
complete -F _conntrackd conntrackd
