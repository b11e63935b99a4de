//go:build no_metrics

package feature

// Metrics reports whether conntrackd can print its statistics as OpenMetrics text.
const Metrics = false
