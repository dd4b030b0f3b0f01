//go:build !linux || portable

package pool

// canSplice is false: other systems have no splice(2).
const canSplice = false

type pipeEnds struct{}

func newPipe() *Pipe { return nil }

func (p *Pipe) close() {}

func unspliceable(error) bool { return true }
