package settings_test

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/settings"
)

// plain has only exported fields.
type plain struct {
	N    int
	Each []string
}

// guarded has an unexported field too.
type guarded struct {
	N int
	n int
}

type all struct {
	Bool    bool
	Int     int
	Time    time.Duration
	Text    string
	Float   float64
	Func    func() int
	Prefix  []netip.Prefix
	URLs    []*url.URL
	Fields  http.Header
	Pointer *plain
	Foreign *tls.Config
	Guarded *guarded
	Value   plain
	Any     any
	Time0   time.Time
	Ch      chan int
	Array   [2]int
	Ring    *ring

	hidden int
}

func counter(n int) func() int { return func() int { return n } }

func sample() *all {
	return &all{
		Func: counter(1), Prefix: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, URLs: []*url.URL{{Host: "a"}},
		Fields: http.Header{"A": {"1"}, "B": {"2"}}, Pointer: &plain{N: 1}, Foreign: &tls.Config{}, Guarded: &guarded{},
		Any: &plain{N: 1}, Ch: make(chan int), Text: "x",
	}
}

func TestAChangeNamesItsField(t *testing.T) {
	for name, change := range map[string]func(*all){
		"Bool":       func(s *all) { s.Bool = true },
		"Int":        func(s *all) { s.Int++ },
		"Time":       func(s *all) { s.Time = time.Second },
		"Text":       func(s *all) { s.Text = "" },
		"Float":      func(s *all) { s.Float = 0.5 },
		"Func":       func(s *all) { s.Func = counter(2) }, // with the same code
		"Prefix":     func(s *all) { s.Prefix[0] = netip.MustParsePrefix("10.0.0.0/9") },
		"URLs":       func(s *all) { s.URLs[0].Host = "b" },
		"Fields":     func(s *all) { s.Fields.Add("A", "2") },
		"Pointer":    func(s *all) { s.Pointer.N++ },
		"Foreign":    func(s *all) { s.Foreign = &tls.Config{} },
		"Guarded":    func(s *all) { s.Guarded = &guarded{} },
		"Value.N":    func(s *all) { s.Value.N++ },
		"Value.Each": func(s *all) { s.Value.Each = []string{} }, // differs from nil
		"Any":        func(s *all) { s.Any = &plain{N: 1} },
		"Time0":      func(s *all) { s.Time0 = time.Unix(1, 0) },
		"Ch":         func(s *all) { s.Ch = nil },
		"Array":      func(s *all) { s.Array[1]++ },
	} {
		s := sample()
		taken := settings.Take(s)
		assert.Empty(t, taken.Changed(s))
		change(s)
		assert.Equal(t, []string{name}, taken.Changed(s))
	}
}

func TestEqualValuesAreNotAChange(t *testing.T) {
	s := sample()
	taken := settings.Take(s)
	s.hidden++
	s.Guarded.N++ // by identity: it has a state of its own
	s.Guarded.n++
	s.Any.(*plain).N++ // another package's content
	s.Foreign.MinVersion = tls.VersionTLS13
	p, u := *s.Pointer, *s.URLs[0]
	s.Pointer, s.URLs = &p, []*url.URL{&u}
	s.Fields = http.Header{"B": {"2"}, "A": {"1"}}
	assert.Empty(t, taken.Changed(s))
}

// ring leads to itself.
type ring struct{ Next *ring }

func TestComparingACyclicStructEnds(t *testing.T) {
	s := sample()
	s.Ring = new(ring)
	s.Ring.Next = s.Ring
	taken := settings.Take(s)
	assert.Empty(t, taken.Changed(s))
	s.Ring = nil
	assert.Equal(t, []string{"Ring"}, taken.Changed(s))
}

func TestEveryChangeIsNamed(t *testing.T) {
	s := sample()
	taken := settings.Take(s)
	s.Int, s.Value.N = 1, 1
	assert.Equal(t, []string{"Int", "Value.N"}, taken.Changed(s))
}

func TestAZeroSnapshotIsThatOfAZeroStruct(t *testing.T) {
	var zero settings.Snapshot
	var s all
	assert.Empty(t, zero.Changed(&s))
	s.Int = 1
	assert.Equal(t, []string{"Int"}, zero.Changed(&s))
	s.Int, s.Fields = 0, http.Header{}
	assert.Equal(t, []string{"Fields"}, zero.Changed(&s), "empty is not nil")
}

func BenchmarkChanged(b *testing.B) {
	s := sample()
	taken := settings.Take(s)
	b.ReportAllocs()
	for b.Loop() {
		taken.Changed(s)
	}
}

// timed has durations at two levels.
type timed struct {
	Wait  time.Duration
	Next  *timed
	quiet time.Duration
}

func TestADurationWithoutItsUnitIsAnError(t *testing.T) {
	s := &timed{Wait: 5, quiet: 5, Next: &timed{Wait: time.Microsecond, Next: &timed{Wait: 999}}}
	var texts []string
	for _, err := range settings.TooShort("T.", s) {
		texts = append(texts, err.Error())
	}
	assert.Equal(t, []string{
		"T.Wait is 5ns, below a microsecond: multiply by a unit, as in 5*time.Second", "T.Next.Next.Wait is 999ns, below a microsecond: multiply by a unit, as in 5*time.Second",
	}, texts)
	assert.Empty(t, settings.TooShort("T.", &timed{Wait: -1}))
}
