package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/eco2-team/eventbus/router/event"
)

func TestErrors_EachKindHasItsCodeAndDetail(t *testing.T) {
	retry := func(d time.Duration) []proto.Message {
		return []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(d)}}
	}
	for name, tc := range map[string]struct {
		err     error
		code    codes.Code
		text    string
		details []proto.Message
	}{
		"invalid": {
			event.Refuse(event.Violate("event.job_id", "a/b", "must be good"), event.Violate("event", nil, "must be set")),
			codes.InvalidArgument, `event.job_id: "a/b": must be good; event: must be set`,
			[]proto.Message{&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
				{Field: "event.job_id", Description: `"a/b": must be good`}, {Field: "event", Description: "must be set"},
			}}},
		},
		"not found":    {event.Errorf(event.NotFound, "no state"), codes.NotFound, "no state", nil},
		"over":         {event.Errorf(event.Over, "job is over"), codes.FailedPrecondition, "job is over", nil},
		"out of range": {event.Errorf(event.OutOfRange, "nothing follows"), codes.OutOfRange, "nothing follows", nil},
		"exhausted":    {&event.Error{Kind: event.Exhausted, Text: "lag", RetryAfter: 3 * time.Second}, codes.ResourceExhausted, "lag", retry(3 * time.Second)},
		"exhausted, no time": {
			event.Errorf(event.Exhausted, "full"), codes.ResourceExhausted, "full", retry(retryAfter),
		},
		"unavailable":  {event.Errorf(event.Unavailable, "redis: %w", io.EOF), codes.Unavailable, "redis: EOF", nil},
		"wrapped":      {fmt.Errorf("read: %w", event.Errorf(event.NotFound, "no state")), codes.NotFound, "no state", nil},
		"internal":     {event.Errorf(event.Internal, "secret"), codes.Internal, internalText, nil},
		"unknown":      {errors.New("secret"), codes.Internal, internalText, nil},
		"bus timeout":  {context.DeadlineExceeded, codes.Unavailable, "interrupted; repeat the call", nil},
		"grpc's own":   {status.Error(codes.ResourceExhausted, "message too large"), codes.ResourceExhausted, "message too large", nil},
		"not UTF-8":    {event.Errorf(event.NotFound, "no \xff"), codes.NotFound, "no \ufffd", nil},
		"no violation": {&event.Error{Kind: event.Invalid, Text: "bad"}, codes.InvalidArgument, "bad", []proto.Message{&errdetails.BadRequest{}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newErrorMapper(slog.New(slog.DiscardHandler))
			s := status.Convert(m.status(t.Context(), "/m", tc.err))
			if s.Code() != tc.code || s.Message() != tc.text {
				t.Errorf("got %s %q; want %s %q", s.Code(), s.Message(), tc.code, tc.text)
			}
			var details []proto.Message
			for _, d := range s.Details() {
				details = append(details, d.(proto.Message))
			}
			if d := cmp.Diff(tc.details, details, protocmp.Transform()); d != "" {
				t.Errorf("details -want +got:\n%s", d)
			}
		})
	}
}

func TestErrors_NoErrorIsOK(t *testing.T) {
	if err := newErrorMapper(slog.New(slog.DiscardHandler)).status(t.Context(), "/m", nil); err != nil {
		t.Error(err)
	}
}

func TestErrors_WhatFailsAfterTheCallEndedFailedBecauseOfThat(t *testing.T) {
	m := newErrorMapper(slog.New(slog.DiscardHandler))
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithTimeout(t.Context(), -1)
	defer cancelLate()
	drained, drain := context.WithCancelCause(t.Context())
	drain(errDraining())
	for want, ctx := range map[codes.Code]context.Context{
		codes.Canceled: canceled, codes.DeadlineExceeded: late, codes.Unavailable: drained,
	} {
		for _, err := range []error{ctx.Err(), context.Cause(ctx), errors.New("use of closed connection"), status.Error(codes.Internal, "transport"), event.Errorf(event.Unavailable, "redis is away")} {
			if got := status.Code(m.status(ctx, "/m", err)); got != want {
				t.Errorf("%v: got %s; want %s", err, got, want)
			}
		}
		if got := status.Code(m.status(ctx, "/m", event.Errorf(event.NotFound, "x"))); got != codes.NotFound {
			t.Errorf("an answer that was found in time became %s", got)
		}
	}
}

func TestErrors_UnforeseenOnesAreLoggedWithDetailsButNotWithoutBound(t *testing.T) {
	var logs logBuffer
	m := newErrorMapper(logs.logger(slog.LevelInfo))
	for range 1000 {
		_ = m.status(t.Context(), "/eventbus.v1.EventBusService/Publish", errors.New("secret detail"))
		_ = m.status(t.Context(), "/m", event.Errorf(event.Over, "known"))
	}
	got := logs.String()
	if n := strings.Count(got, "secret detail"); n < 1 || n > 20 || !strings.Contains(got, "EventBusService/Publish") {
		t.Errorf("%d lines of 1000:\n%s", n, got)
	}
	if strings.Contains(got, "known") {
		t.Error("a caller's mistake was logged as ours")
	}
}

func TestErrors_FitIntoTheTrailersOfOtherClients(t *testing.T) {
	var vs []event.Violation
	for i := range 1000 {
		vs = append(vs, event.Violate(fmt.Sprintf("requests[%d].event.job_id", i), strings.Repeat("가", 100), event.JobIDRule))
	}
	s := status.Convert(newErrorMapper(slog.New(slog.DiscardHandler)).status(t.Context(), "/m", event.Refuse(vs...)))
	const trailers = 8 << 10
	// The message is sent twice: percent-encoded, and base64 with the details.
	if n := len(s.Message())*3 + proto.Size(s.Proto())*4/3; n > trailers {
		t.Errorf("%d bytes of trailers; at most %d", n, trailers)
	}
	list := s.Details()[0].(*errdetails.BadRequest).GetFieldViolations()
	last := list[len(list)-1].GetDescription()
	if want := fmt.Sprintf("and %d more", 1000-(len(list)-1)); last != want || len(list) < 5 {
		t.Errorf("%d violations, the last %q; want %q", len(list), last, want)
	}
}
