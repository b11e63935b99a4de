# Gives the scripts that source this file access to Debian suites other than the machine's
# own. It installs nothing and does not change the machine's package lists.
#
# suites DIRECTORY SUITE... fetches the suites' package lists to DIRECTORY, from the
# archive that the machine's own sources name, and sets $apt to the options with which
# apt-get and apt-cache use them. It fails if a list cannot be fetched.

suites() {
	directory=$1
	shift
	archive=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' |
		sed -n 's/ Debian$//p' | head -n 1)
	[ -n "$archive" ] || { echo "apt's sources name no archive of Debian" >&2; return 1; }
	mkdir -p "$directory/lists/partial" "$directory/archives/partial" || return 1
	for suite; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main"
	done >"$directory/sources.list"
	apt="-q -o Dir::Etc::SourceList=$directory/sources.list -o Dir::Etc::SourceParts=-"
	apt="$apt -o Dir::State::Lists=$directory/lists -o Dir::State::status=/dev/null -o Dir::Cache=$directory"
	apt="$apt -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3"
	apt="$apt -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"
	# shellcheck disable=SC2086 # a list of words
	apt-get $apt -o APT::Update::Error-Mode=any update >&2
}
