// Package vmtest tests user-space helpers end to end: conntrackd, ctbox's and Debian's, on a
// firewall with real rules, real traffic through it, and a real kernel that fulfils the
// expectations.
//
// Other tests that need a machine of their own are here too: replication while the wall clock
// is set.
//
// The tests have the build tag vm and run as one test binary in a virtual machine (make
// test-vm), because few kernels have nfnetlink_cthelper and conntrack in NFQUEUE's messages.
// All namespaces share the kernel's table of helpers, so the tests do not run in parallel.
package vmtest
