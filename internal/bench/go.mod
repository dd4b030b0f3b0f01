module github.com/hostproxy/hostproxy/internal/bench

go 1.26.0

replace github.com/hostproxy/hostproxy => ../..

require (
	github.com/hostproxy/hostproxy v0.0.0
	github.com/stretchr/testify v1.12.1
	golang.org/x/sys v0.48.0
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/net v0.59.0 // indirect
	golang.org/x/text v0.42.0 // indirect
)
