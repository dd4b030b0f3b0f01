package serve

// A carrier is a connection that may turn out to be for a target elsewhere when
// its ClientHello is read. For its reader it then ends.
type carrier interface {
	// Carried reports whether the connection is carried elsewhere. If so, it
	// calls ended when that is over, and from now on Close cuts the connection.
	Carried(ended func()) bool
}

// A settler is a listener with goroutines of its own below its connections.
type settler interface {
	// Settle waits for these goroutines. All connections are closed.
	Settle()
}

// carried reports whether the connection is carried elsewhere. If so, it stays
// in the server's count until that is over: the drain waits for it, and cuts it
// at DrainTimeout as any other connection.
func (c *conn) carried() bool {
	k, ok := c.Conn.(carrier)
	return ok && k.Carried(func() { c.Close() })
}
