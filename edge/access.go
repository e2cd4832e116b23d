package edge

import (
	"context"
	"errors"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/eco2-team/eventbus/router/access"
	"github.com/eco2-team/eventbus/router/event"
)

// queryToken is the query's name for a token, where AUTH_QUERY_TOKEN is on.
const queryToken = "access_token"

// errExpired ends the stream of a browser whose token does.
var errExpired = errors.New("edge: token expired")

// authenticate tells who asks, and leaves r without what must not go on: a token
// never stays in the URL, and what is read from routers for browsers is read by
// the edge. A POST keeps its token: the router checks it, too.
//
// Only a header lets one publish: a page of another site can make a browser send
// its cookies, but no header.
func (s *Server) authenticate(r *http.Request) (*access.Identity, error) {
	q := takeQueryToken(r)
	if !s.guard.Required() {
		return s.guard.Verify(r.Context(), "")
	}
	token := ""
	switch given := r.Header.Values("Authorization"); {
	case len(given) == 1:
		var ok bool
		if token, ok = access.Bearer(given[0]); !ok {
			return nil, status.Error(codes.Unauthenticated, "Authorization must be Bearer and a token")
		}
	case len(given) > 1:
		return nil, status.Error(codes.Unauthenticated, "Authorization must be given once")
	case r.Method != http.MethodGet:
	case s.cfg.AuthQueryToken && q != "":
		token = q
	default:
		if c, err := r.Cookie(s.cfg.AuthCookie); err == nil {
			token = c.Value
		}
	}
	if r.Method == http.MethodGet {
		r.Header.Del("Authorization")
	}
	id, err := s.guard.Verify(r.Context(), token)
	return id, accessStatus(err)
}

// takeQueryToken removes it, whether it is wanted or not.
func takeQueryToken(r *http.Request) string {
	q := r.URL.Query()
	token := q.Get(queryToken)
	if q.Has(queryToken) {
		q.Del(queryToken)
		r.URL.RawQuery = q.Encode()
		r.RequestURI = r.URL.RequestURI()
	}
	return token
}

// accessStatus is the gRPC status of what access said.
func accessStatus(err error) error {
	e, ok := errors.AsType[*event.Error](err)
	switch {
	case !ok:
		return err
	case e.Kind == event.Unauthenticated:
		return status.Error(codes.Unauthenticated, e.Text)
	case e.Kind == event.Denied:
		return status.Error(codes.PermissionDenied, e.Text)
	case e.Kind == event.Unavailable:
		return status.Error(codes.Unavailable, e.Text)
	}
	return status.Error(codes.Internal, "access could not be checked")
}

// expire ends ctx with the identity; call stop.
func expire(id *access.Identity, cancel context.CancelCauseFunc) (stop func()) {
	if id.Until.IsZero() {
		return func() {}
	}
	t := time.AfterFunc(time.Until(id.Until), func() { cancel(errExpired) })
	return func() { t.Stop() }
}
