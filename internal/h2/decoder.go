package h2

// A Decoder decodes the header blocks of one connection (RFC 7541). The zero
// value is ready for use, with a dynamic table of up to TableSize bytes, which
// grows as needed.
type Decoder struct{ table table }

// Decode decodes a header block into l, and replaces the fields of l. All
// blocks of a connection must be decoded, in the order in which they arrive.
//
// An error is a *Fault, a connection error. A block beyond l's limits is still
// decoded to its end, since it changes the table; Request and Trailers then
// return the refusal. A block that decodes to far more than the limits is a
// fault.
func (d *Decoder) Decode(l *List, block []byte) (err error) {
	l.clear()
	for len(block) > 0 && block[0]&0xe0 == 0x20 {
		if block, err = d.resize(block); err != nil {
			return err
		}
	}
	for len(block) > 0 {
		if block, err = d.field(l, block); err != nil {
			return err
		}
	}
	return nil
}

// resize applies a table size update (RFC 7541, 6.3) and returns the bytes
// after it.
func (d *Decoder) resize(b []byte) ([]byte, error) {
	n, b, err := integer(b, 5)
	switch {
	case err != nil:
		return nil, err
	case n > TableSize:
		return nil, errUpdateSize
	}
	d.table.resize(n)
	return b, nil
}

// field decodes one field and returns the bytes after it (RFC 7541, 6.1 and
// 6.2).
func (d *Decoder) field(l *List, b []byte) (rest []byte, err error) {
	start, name := len(l.text), 0
	switch c := b[0]; {
	case c >= 0x80:
		rest, name, err = d.indexed(l, b, 7, false)
	case c >= 0x40:
		if rest, name, err = d.literal(l, b, 6); err == nil {
			d.table.add(l.text[start:], name)
		}
	case c >= 0x20:
		err = errUpdateLate
	default:
		rest, name, err = d.literal(l, b, 4)
	}
	if err != nil {
		return nil, err
	}
	return rest, l.note(start, name)
}

// literal appends a field with a literal value. Its name is indexed or literal.
func (d *Decoder) literal(l *List, b []byte, prefix uint8) (rest []byte, name int, err error) {
	if b[0]&(1<<prefix-1) != 0 {
		b, name, err = d.indexed(l, b, prefix, true)
	} else {
		start := len(l.text)
		b, err = appendString(l, b[1:])
		name = len(l.text) - start
	}
	if err != nil {
		return nil, 0, err
	}
	b, err = appendString(l, b)
	return b, name, err
}

// indexed appends a field of one of the tables, or its name alone.
func (d *Decoder) indexed(l *List, b []byte, prefix uint8, nameOnly bool) (rest []byte, name int, err error) {
	i, b, err := integer(b, prefix)
	switch {
	case err != nil:
		return nil, 0, err
	case i == 0:
		return nil, 0, errIndex
	case i < len(statics):
		s := &statics[i]
		l.text = append(l.text, s.name...)
		if !nameOnly {
			l.text = append(l.text, s.value...)
		}
		return b, len(s.name), nil
	}
	ok := false
	if l.text, name, ok = d.table.appendEntry(l.text, uint32(i-len(statics)), nameOnly); !ok {
		return nil, 0, errIndex
	}
	return b, name, nil
}

// appendString appends the string at the start of b and returns the bytes after
// it (RFC 7541, 5.2).
func appendString(l *List, b []byte) (rest []byte, err error) {
	if len(b) == 0 {
		return nil, errBlockEnds
	}
	coded := b[0]&0x80 != 0
	n, b, err := integer(b, 7)
	switch {
	case err != nil:
		return nil, err
	case n > len(b):
		return nil, errBlockEnds
	case coded:
		l.text, err = appendHuffman(l.text, b[:n])
	default:
		l.text = append(l.text, b[:n]...)
	}
	return b[n:], err
}

// maxShift limits an integer to four bytes after the first: no valid length or
// index needs more.
const maxShift = 28

// integer parses the integer at the start of b, which is not empty, and returns
// the bytes after it (RFC 7541, 5.1).
func integer(b []byte, prefix uint8) (n int, rest []byte, err error) {
	mask := 1<<prefix - 1
	n, b = int(b[0])&mask, b[1:]
	if n < mask {
		return n, b, nil
	}
	for shift := 0; shift < maxShift; shift += 7 {
		if len(b) == 0 {
			return 0, nil, errBlockEnds
		}
		c := b[0]
		b = b[1:]
		n += int(c&0x7f) << shift
		if c < 0x80 {
			return n, b, nil
		}
	}
	return 0, nil, errInteger
}
