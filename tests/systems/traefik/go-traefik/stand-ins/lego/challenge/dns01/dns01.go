// Package dns01 has the settings of the challenge by DNS, which has no effect here.
package dns01

import (
	"strings"
	"time"
)

// Options would say which name servers are asked.
type Options struct{ RecursiveNameservers []string }

// Client asks nobody.
type Client struct{}

// Challenge is never made.
type Challenge struct{}

// ChallengeOption is a setting of the challenge.
type ChallengeOption func(*Challenge) error

// NewClient makes one that asks nobody.
func NewClient(*Options) *Client { return &Client{} }

// SetDefaultClient does nothing.
func SetDefaultClient(*Client) {}

func nothing(*Challenge) error { return nil }

// CondOptions has no effect.
func CondOptions(bool, ...ChallengeOption) ChallengeOption { return nothing }

// DisableAuthoritativeNssPropagationRequirement has no effect.
func DisableAuthoritativeNssPropagationRequirement() ChallengeOption { return nothing }

// DisableRecursiveNSsPropagationRequirement has no effect.
func DisableRecursiveNSsPropagationRequirement() ChallengeOption { return nothing }

// PropagationWait has no effect.
func PropagationWait(time.Duration, bool) ChallengeOption { return nothing }

// UnFqdn takes the dot at the end of a name away.
func UnFqdn(name string) string { return strings.TrimSuffix(name, ".") }
