package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheREADMEHasEachLabelAndFlagThatExists(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `hostproxy\\.(\\w+)` \\|").FindAllSubmatch(text, -1) {
		names = append(names, string(m[1]))
	}
	slices.Sort(names)
	assert.Equal(t, known, names)
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile("[` (]-(https?|docker|self|email|network|only|route)[` ]").FindAllSubmatch(text, -1) {
		assert.Contains(t, string(source), `"`+string(m[1])+`"`)
	}
}

func TestTheLabelsOfTheComposeFileAreValid(t *testing.T) {
	text, err := os.ReadFile("compose.yaml")
	require.NoError(t, err)
	services := 0
	for _, block := range strings.Split(string(text), "labels:\n")[1:] {
		labels := map[string]string{}
		for line := range strings.Lines(block) {
			k, v, ok := strings.Cut(strings.TrimSpace(line), ": ")
			if !ok {
				break
			}
			labels[k] = strings.Trim(v, `"`)
		}
		w, err := readLabels(labels)
		require.NoError(t, err)
		assert.NoError(t, permitted(w.patterns[0], []string{"*.localhost"}))
		services++
	}
	assert.Equal(t, 2, services)
}
