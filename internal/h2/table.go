package h2

// TableSize is the default SETTINGS_HEADER_TABLE_SIZE, which a Decoder always
// uses. It limits the sum of names, values and entryCost.
const TableSize = 4096

// entryCost is what an entry of a table counts in addition to its text (RFC
// 7541, 4.1).
const entryCost = 32

// A table is the dynamic table of a Decoder (RFC 7541, 2.3.2): a ring of
// entries, and a ring of their texts. Both grow as needed.
type table struct {
	max  int // allowed size minus TableSize, so that the zero value allows TableSize
	size int // current size

	entries []entry // its length is a power of two
	next    uint32  // number of entries ever added; the newest is at next-1
	count   uint32  // entries in the table

	text []byte // its length is a power of two
	end  uint32 // number of bytes ever added
}

// An entry is a field of a table: the end of its text, and the lengths of its
// parts.
type entry struct {
	end         uint32
	name, value uint16
}

// Initial sizes of a table.
const (
	fewEntries = 8
	littleText = 256
)

// appendEntry appends name and value of the entry with that index, or only the
// name if nameOnly. Index 0 is the newest entry. It returns the length of the
// name.
func (t *table) appendEntry(dst []byte, index uint32, nameOnly bool) (out []byte, name int, ok bool) {
	if index >= t.count {
		return dst, 0, false
	}
	e := t.entries[(t.next-1-index)&uint32(len(t.entries)-1)]
	n := uint32(e.name)
	if !nameOnly {
		n += uint32(e.value)
	}
	if n == 0 {
		return dst, 0, true
	}
	from := (e.end - uint32(e.name) - uint32(e.value)) & uint32(len(t.text)-1)
	if to := from + n; to <= uint32(len(t.text)) {
		dst = append(dst, t.text[from:to]...)
	} else {
		dst = append(append(dst, t.text[from:]...), t.text[:to&uint32(len(t.text)-1)]...)
	}
	return dst, int(e.name), true
}

// add adds the field whose name is the first name bytes of text. A field larger
// than the table empties it.
func (t *table) add(text []byte, name int) {
	cost := len(text) + entryCost
	t.evict(t.limit() - cost)
	if cost > t.limit() {
		return
	}
	t.reserve(len(text))
	for rest := text; len(rest) > 0; {
		n := copy(t.text[t.end&uint32(len(t.text)-1):], rest)
		t.end += uint32(n)
		rest = rest[n:]
	}
	t.entries[t.next&uint32(len(t.entries)-1)] = entry{t.end, uint16(name), uint16(len(text) - name)}
	t.next++
	t.count++
	t.size += cost
}

func (t *table) limit() int { return TableSize + t.max }

// resize sets the size of the table, at most TableSize.
func (t *table) resize(n int) {
	t.max = n - TableSize
	t.evict(n)
}

// evict removes the oldest entries until at most n bytes are counted.
func (t *table) evict(n int) {
	for t.count > 0 && t.size > n {
		e := t.entries[(t.next-t.count)&uint32(len(t.entries)-1)]
		t.size -= int(e.name) + int(e.value) + entryCost
		t.count--
	}
}

// reserve makes room for an entry with a text of n bytes.
func (t *table) reserve(n int) {
	if int(t.count) == len(t.entries) {
		larger := make([]entry, max(fewEntries, 2*len(t.entries)))
		for i := t.next - t.count; i != t.next; i++ {
			larger[i&uint32(len(larger)-1)] = t.entries[i&uint32(len(t.entries)-1)]
		}
		t.entries = larger
	}
	used := t.size - entryCost*int(t.count)
	if used+n <= len(t.text) {
		return
	}
	size := max(littleText, len(t.text))
	for size < used+n {
		size *= 2
	}
	larger := make([]byte, size)
	for i := t.end - uint32(used); i != t.end; i++ {
		larger[i&uint32(size-1)] = t.text[i&uint32(len(t.text)-1)]
	}
	t.text = larger
}
