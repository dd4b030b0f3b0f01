package header

// PassesTrailer reports whether a trailer of that name crosses the proxy. drops
// are the names of the fields that an edit drops from the message, and named
// the values of Connection in its head.
//
// Hot path: no allocation.
func PassesTrailer[N, V Text](drops []string, name N, named ...V) bool {
	if ForbiddenTrailer(name) || Matches(drops, name) {
		return false
	}
	for _, value := range named {
		if Nominated(value, name) {
			return false
		}
	}
	return true
}

// Matches reports whether a CGI-like target reads name as one of names.
func Matches[N Text](names []string, name N) bool {
	for _, k := range names {
		if SameVariable(k, name) {
			return true
		}
	}
	return false
}
