package forward

// CutOff is the error of a drain that could not wait any longer.
var CutOff = cutOff

// LimitSilence closes a connection whose peer has acknowledged nothing for a
// while.
var LimitSilence = limitSilence

// Start begins the background work, as the first exchange does.
func (f *Forwarder) Start() { f.background.start() }

// HoldBackground keeps the background work from beginning and ending until
// release.
func (f *Forwarder) HoldBackground() (release func()) {
	f.background.mu.Lock()
	return f.background.mu.Unlock
}
