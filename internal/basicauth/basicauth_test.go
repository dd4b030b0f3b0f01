package basicauth_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/hostproxy/hostproxy/internal/basicauth"
)

func hash(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	require.NoError(t, err)
	return string(h)
}

func TestAPasswordIsValidOnlyForItsUser(t *testing.T) {
	long := strings.Repeat("x", 72)
	b, err := basicauth.New(map[string]string{"ann": hash(t, "a"), "bob": hash(t, "b"), "long": hash(t, long), "none": hash(t, "")}, "here")
	require.NoError(t, err)
	for range 2 { // the second time, correct pairs are known
		for _, tt := range []struct {
			user, password string
			want           bool
		}{
			{"ann", "a", true}, {"bob", "b", true}, {"ann", "b", false}, {"ann", "", false}, {"", "a", false}, {"", "", false},
			{"Ann", "a", false}, {"eve", "a", false}, {"eve", "b", false}, {"none", "", true}, {"none", "a", false},
			{"long", long, true}, {"long", long + "y", false}, {"an", "na", false}, {"ann", "a\x00", false},
		} {
			got, err := b.Knows(t.Context(), tt.user, tt.password)
			assert.NoError(t, err)
			assert.Equal(t, tt.want, got, "%s:%s", tt.user, tt.password)
		}
	}
}

func TestInvalidUsersAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		users map[string]string
		want  string
	}{
		"none":              {nil, "no users"},
		"a colon":           {map[string]string{"a:b": hash(t, "x")}, `"a:b"`},
		"no name":           {map[string]string{"": hash(t, "x")}, `user ""`},
		"a line break":      {map[string]string{"a\nb": hash(t, "x")}, `"a\nb"`},
		"a plain password":  {map[string]string{"ann": "secret"}, `user "ann": the password must be a bcrypt hash`},
		"half of a hash":    {map[string]string{"ann": hash(t, "x")[:20]}, `user "ann": the password must be a bcrypt hash`},
		"a cost of billion": {map[string]string{"ann": "$2a$99$" + hash(t, "x")[7:]}, `user "ann": the password must be a bcrypt hash`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := basicauth.New(tt.users, "here")
			assert.ErrorContains(t, err, tt.want)
		})
	}
	_, err := basicauth.New(map[string]string{"ann": "secret", "a:b": hash(t, "x")}, "here")
	assert.ErrorContains(t, err, `"ann"`)
	assert.ErrorContains(t, err, `"a:b"`, "every fault is named")
	_, err = basicauth.New(map[string]string{"ann": hash(t, "x")}, "a\r\nb")
	assert.ErrorContains(t, err, `realm "a\r\nb"`)
}

// Wrong passwords must not take all CPUs from correct ones.
func TestAFloodOfWrongPasswordsDoesNotDelayCorrectOnes(t *testing.T) {
	dear, err := bcrypt.GenerateFromPassword([]byte("a"), 12)
	require.NoError(t, err)
	b, err := basicauth.New(map[string]string{"ann": string(dear)}, "here")
	require.NoError(t, err)
	ok, err := b.Knows(t.Context(), "ann", "a")
	require.NoError(t, err)
	require.True(t, ok)

	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	for range 64 {
		flood.Go(func() { _, _ = b.Knows(ctx, "eve", "x") })
	}
	ok, err = b.Knows(t.Context(), "ann", "a")
	assert.NoError(t, err)
	assert.True(t, ok, "a password verified before needs no hash")
	stop()
	_, err = b.Knows(ctx, "ann", "wrong")
	if err != nil {
		assert.ErrorIs(t, err, context.Canceled)
	}
	flood.Wait()
}

func BenchmarkKnownPassword(b *testing.B) {
	k, err := basicauth.New(map[string]string{"ann": hash(b, "a")}, "here")
	require.NoError(b, err)
	for b.Loop() {
		_, _ = k.Knows(b.Context(), "ann", "a")
	}
}
