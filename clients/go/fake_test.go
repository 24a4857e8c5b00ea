package sessionpool

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// limit bounds every test: a bug must not hang them.
const limit = 30 * time.Second

type (
	queryStream  = grpc.ServerStreamingServer[pb.QueryResponse]
	attachStream = grpc.ServerStreamingServer[pb.AttachResponse]
)

// fake is a service whose answers a test writes, on a port of its own.
type fake struct {
	pb.UnimplementedSessionPoolServiceServer
	testing.TB
	address string
	options []grpc.ServerOption
	server  *grpc.Server
	health  *health.Server

	query  func(*pb.QueryRequest, queryStream) error
	attach func(*pb.AttachRequest, attachStream) error
	stats  func(context.Context) (*pb.GetStatsResponse, error)

	mutex    sync.Mutex
	sessions [][]string // The metadata session-id of each call.
}

func newFake(t testing.TB, options ...grpc.ServerOption) *fake {
	t.Helper()
	f := &fake{TB: t, address: "127.0.0.1:0", options: options}
	f.start()
	t.Cleanup(func() { f.server.Stop() })
	return f
}

// start listens, at the same address as before if it has been killed.
func (f *fake) start() {
	f.Helper()
	listener, err := net.Listen("tcp", f.address)
	if err != nil {
		f.Fatal(err)
	}
	f.address = listener.Addr().String()
	f.server = grpc.NewServer(append(f.options,
		grpc.ChainUnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			f.record(ctx)
			return next(ctx, r)
		}),
		grpc.ChainStreamInterceptor(func(s any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			f.record(stream.Context())
			return next(s, stream)
		}))...)
	pb.RegisterSessionPoolServiceServer(f.server, f)
	f.health = health.NewServer()
	healthpb.RegisterHealthServer(f.server, f.health)
	go f.server.Serve(listener)
}

func (f *fake) record(ctx context.Context) {
	sent, _ := metadata.FromIncomingContext(ctx)
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.sessions = append(f.sessions, sent.Get("session-id"))
}

// seen is the metadata session-id of the calls so far.
func (f *fake) seen() [][]string {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.sessions
}

func (f *fake) Query(request *pb.QueryRequest, stream queryStream) error {
	return f.query(request, stream)
}

func (f *fake) Attach(request *pb.AttachRequest, stream attachStream) error {
	return f.attach(request, stream)
}

func (f *fake) GetStats(ctx context.Context, _ *pb.GetStatsRequest) (*pb.GetStatsResponse, error) {
	return f.stats(ctx)
}

func (f *fake) GetSession(_ context.Context, r *pb.GetSessionRequest) (*pb.GetSessionResponse, error) {
	return nil, refusal(codes.NotFound, "SESSION_NOT_FOUND", 0, map[string]string{"session_id": r.GetSessionId()})
}

// client is a client of the fake, for as long as the test runs.
func (f *fake) client(options ...Option) *Client {
	f.Helper()
	client, err := New(f.address, options...)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { client.Close() })
	return client
}

func (f *fake) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	f.Cleanup(cancel)
	return ctx
}

// refusal is an error as the service makes them.
func refusal(code codes.Code, reason string, after time.Duration, metadata map[string]string) error {
	state := status.New(code, "words about "+reason)
	state, err := state.WithDetails(&errdetails.ErrorInfo{Domain: Domain, Reason: reason, Metadata: metadata})
	if err == nil && after > 0 {
		state, err = state.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	if err != nil {
		return err
	}
	return state.Err()
}

func started(turnID string) *pb.TurnEvent {
	return &pb.TurnEvent{Sequence: 1, Kind: &pb.TurnEvent_Started{
		Started: &pb.TurnStarted{SessionId: "s", TurnId: turnID},
	}}
}

func text(sequence uint64, words string) *pb.TurnEvent {
	block := &pb.ContentBlock{Block: &pb.ContentBlock_Text{Text: &pb.TextBlock{Text: words}}}
	return &pb.TurnEvent{Sequence: sequence, Kind: &pb.TurnEvent_Assistant{
		Assistant: &pb.AssistantMessage{Content: []*pb.ContentBlock{block}},
	}}
}

func result(sequence uint64, words string) *pb.TurnEvent {
	return &pb.TurnEvent{Sequence: sequence, Kind: &pb.TurnEvent_Result{Result: &pb.TurnResult{Result: words}}}
}

// answer sends events to a Query.
func answer(stream queryStream, events ...*pb.TurnEvent) error {
	for _, event := range events {
		if err := stream.Send(&pb.QueryResponse{Item: &pb.QueryResponse_Event{Event: event}}); err != nil {
			return err
		}
	}
	return nil
}

// goOn sends events to an Attach.
func goOn(stream attachStream, events ...*pb.TurnEvent) error {
	for _, event := range events {
		if err := stream.Send(&pb.AttachResponse{Item: &pb.AttachResponse_Event{Event: event}}); err != nil {
			return err
		}
	}
	return nil
}

// pieces is an event in parts of at most size bytes.
func pieces(t testing.TB, event *pb.TurnEvent, size int) []*pb.EventPart {
	t.Helper()
	data, err := proto.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	var parts []*pb.EventPart
	for len(data) > 0 {
		piece := data[:min(size, len(data))]
		data = data[len(piece):]
		parts = append(parts, &pb.EventPart{
			Sequence: event.GetSequence(), Index: uint32(len(parts)), Data: piece, Last: len(data) == 0,
		})
	}
	return parts
}

// read reads a turn to its end.
func read(turn *Turn) (events []*pb.TurnEvent, err error) {
	for event, err := range turn.Events() {
		if err != nil {
			return events, err
		}
		events = append(events, event)
	}
	return events, nil
}

// same checks what was read against what was to come.
func same(t testing.TB, got []*pb.TurnEvent, want ...*pb.TurnEvent) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events in place of %d: %.300v", len(got), len(want), got)
	}
	for i := range got {
		if !proto.Equal(got[i], want[i]) {
			t.Errorf("event %d is %.300v, not %.300v", i+1, got[i], want[i])
		}
	}
}

// failed checks that an error has this reason and advice.
func failed(t testing.TB, err error, code codes.Code, reason string, advice Advice) *Error {
	t.Helper()
	found, ok := err.(*Error)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	if found.Code != code || found.Reason != reason || found.Advice != advice {
		t.Fatalf("%v %q %v in place of %v %q %v: %v", found.Code, found.Reason, found.Advice, code, reason, advice, err)
	}
	return found
}
