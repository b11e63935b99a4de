// Package vmtest holds the tests of user-space helpers end to end: conntrackd,
// ours and Debian's, on a firewall with real rules, real traffic through it, and
// the kernel that makes its flows' expectations come true.
//
// Beside them is what only a machine of one's own allows: replication while the wall
// clock is set.
//
// They have the build tag vm and run as one test binary in a virtual machine
// (make test-vm), because few kernels have nfnetlink_cthelper and conntrack in
// NFQUEUE's messages. The kernel's table of helpers is one for all namespaces, so
// no two tests run at a time.
package vmtest
