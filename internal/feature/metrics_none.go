//go:build no_metrics

package feature

// Metrics is whether conntrackd can show its statistics as OpenMetrics text.
const Metrics = false
