package header

// Cookie returns the value of the first cookie of that name in line, the value
// of a Cookie field (RFC 6265, 4.2). Names are compared byte by byte; quotes
// around a value are part of it.
func Cookie[T string | []byte](line T, name string) (value T, ok bool) {
	for i := 0; i < len(line); {
		for i < len(line) && (line[i] == ' ' || line[i] == '\t' || line[i] == ';') {
			i++
		}
		start := i
		for i < len(line) && line[i] != ';' {
			i++
		}
		pair := line[start:i]
		if len(pair) > len(name) && pair[len(name)] == '=' && string(pair[:len(name)]) == name {
			return pair[len(name)+1:], true
		}
	}
	return value, false
}
