package serve

// A carrier is a connection that may turn out, when its ClientHello is read, to
// be for a target elsewhere. For its reader it has ended then.
type carrier interface {
	// Carried reports whether the connection is carried elsewhere. If so, ended
	// is called when that is over, and Close cuts it from now on.
	Carried(ended func()) bool
}

// A settler is a listener with goroutines of its own below its connections.
type settler interface {
	// Settle waits for them. All connections are closed.
	Settle()
}

// carried keeps a connection that is carried elsewhere in the server's count
// until that is over. Then it reports true. The drain waits for it, and cuts it
// at DrainTimeout, as any other.
func (c *conn) carried() bool {
	k, ok := c.Conn.(carrier)
	return ok && k.Carried(func() { c.Close() })
}
