//go:build no_allnetns

package feature

// AllNetNS reports whether conntrack is built with --all-netns and --by.
const AllNetNS = false
