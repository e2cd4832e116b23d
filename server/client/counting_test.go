package client_test

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"

	eventbusv1 "github.com/eco2-team/eventbus/gen/eventbus/v1"
)

// counting counts the streams that were asked for, and those whose first message
// came.
type counting struct {
	eventbusv1.EventBusServiceClient
	asked, opened *atomic.Int64
}

func (c counting) Subscribe(ctx context.Context, r *eventbusv1.SubscribeRequest, opts ...grpc.CallOption) (grpc.ServerStreamingClient[eventbusv1.SubscribeResponse], error) {
	c.asked.Add(1)
	s, err := c.EventBusServiceClient.Subscribe(ctx, r, opts...)
	return &counted{ServerStreamingClient: s, opened: c.opened}, err
}

type counted struct {
	grpc.ServerStreamingClient[eventbusv1.SubscribeResponse]
	opened *atomic.Int64
	spoke  bool
}

func (s *counted) Recv() (*eventbusv1.SubscribeResponse, error) {
	m, err := s.ServerStreamingClient.Recv()
	if err == nil && !s.spoke {
		s.spoke = true
		s.opened.Add(1)
	}
	return m, err
}
