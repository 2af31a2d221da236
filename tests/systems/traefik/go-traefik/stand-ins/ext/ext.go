// Package ext has no extensions of Traefik's dynamic configuration; the stock program has none either.
package ext

// HTTP adds nothing to the configuration of HTTP.
type HTTP struct{}

// DeepCopyInto copies nothing.
func (*HTTP) DeepCopyInto(*HTTP) {}

// Router adds nothing to a router.
type Router struct{}

// DeepCopyInto copies nothing.
func (*Router) DeepCopyInto(*Router) {}
