//go:build !race

package proto

const defaultSeeds = 1000
