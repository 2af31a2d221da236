// Package auth lets nobody in: this build of Traefik is for tests and checks no passwords itself.
package auth

import "net/http"

// SecretProvider would say the secret of somebody.
type SecretProvider func(user, realm string) string

// CheckSecret accepts no password.
func CheckSecret(_, _ string) bool { return false }

// BasicAuth knows nobody.
type BasicAuth struct {
	Realm   string
	Secrets SecretProvider
}

// CheckAuth knows nobody.
func (*BasicAuth) CheckAuth(*http.Request) string { return "" }

// RequireAuth refuses.
func (*BasicAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "this build checks no passwords", http.StatusUnauthorized)
}

// DigestAuth knows nobody.
type DigestAuth struct{}

// NewDigestAuthenticator makes one that knows nobody.
func NewDigestAuthenticator(string, SecretProvider) *DigestAuth { return &DigestAuth{} }

// CheckAuth knows nobody.
func (*DigestAuth) CheckAuth(*http.Request) (string, *string) { return "", nil }

// RequireAuth refuses.
func (*DigestAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "this build checks no passwords", http.StatusUnauthorized)
}

// RequireAuthStale refuses.
func (*DigestAuth) RequireAuthStale(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "this build checks no passwords", http.StatusUnauthorized)
}

// DigestAuthParams reads nothing.
func DigestAuthParams(string) map[string]string { return nil }
