package reload

import (
	"reflect"
	"slices"
	"strings"
)

// suchAs returns an example of a value for v, for the fault that a value is of
// another kind. It is "" if the keys and the rule are enough.
func suchAs(v reflect.Value) string {
	switch v.Interface().(type) {
	case TLS:
		return ", such as {email: ops@example.com}; without TLS, give the listeners another role: listeners: [{addr: \":80\", role: plain}]"
	case ClientTLS:
		return ", such as {ca_files: ca.pem}; a target without TLS is written http://host:port, and needs no tls"
	case []Listener, Listener:
		return ", such as listeners: [{addr: \":8080\", role: plain}]; they take the place of :443 and :80"
	case Guard:
		return ", such as {allow: 10.0.0.0/8, rate_limit: {rate: 10}}"
	case RateLimit:
		return ", such as {rate: 10, burst: 20}, which are requests a second and at once"
	case BasicAuth:
		return ", such as {users_file: users}: a file with lines of name:hash, as htpasswd -nB writes them"
	case HealthCheck:
		return ", such as {path: /healthz, interval: 10s}"
	case Access:
		return ": {} logs each request, and without the key only failures are logged"
	case map[string]*Route:
		return ", such as {app.example.com: localhost:4000}"
	}
	return ""
}

// unknownRule returns the rule for a key that the structure v does not have. It
// names the key that was probably meant, the section that has it, or all keys.
func unknownRule(key string, v reflect.Value, fields []field) string {
	for _, f := range fields {
		if plain(f.key) == plain(key) {
			return "want " + f.key
		}
	}
	for _, f := range fields {
		if below := section(v.FieldByIndex(f.index).Type()); below != nil {
			for _, g := range fieldsOf(below) {
				if g.key == key {
					return "it stands in " + f.key + ": write " + f.key + ": {" + key + ": ...}"
				}
			}
		}
	}
	return "want one of " + strings.Join(sortedKeys(fields), ", ") + suchAs(v)
}

// section returns the structure t, or the one that t points to, or nil.
func section(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || kindOf(reflect.New(t).Elem()) != structure {
		return nil
	}
	return t
}

func sortedKeys(fields []field) (keys []string) {
	for _, f := range fields {
		keys = append(keys, f.key)
	}
	slices.Sort(keys)
	return keys
}

// plain returns key without the parts that are often mistyped.
func plain(key string) string {
	return strings.TrimSuffix(strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(key)), "s")
}
