package exchange

// Buffer reads from the source until n bytes are kept, or the body ends or
// fails. It calls more before it allocates that many bytes. If more returns
// false, Buffer stops: the kept bytes stay, and an attempt reads the rest. No
// attempt may have begun.
func (b *Body) Buffer(n int, more func(bytes int) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keeps, b.limit = true, max(n, ReplayLimit)
	b.turnPage()
	for !b.Whole() && b.Failed() == nil && len(b.kept) < n {
		if len(b.kept) == cap(b.kept) && !b.grow(n, more) {
			return
		}
		m, err := b.read(b.kept[len(b.kept):min(cap(b.kept), n)])
		b.kept = b.kept[:len(b.kept)+m]
		if err != nil {
			return
		}
	}
}

// grow doubles the room for kept bytes, up to n. b.mu is held.
func (b *Body) grow(n int, more func(int) bool) bool {
	size := min(2*cap(b.kept), n)
	if !more(size - cap(b.kept)) {
		b.limit = len(b.kept)
		return false
	}
	b.kept = append(make([]byte, 0, size), b.kept...)
	return true
}
