package sessionpool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

const (
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 2 * time.Second
	// longestWait is how long RetryInfo may ask for; the caller is told of what asks for more.
	longestWait = 30 * time.Second
	// jitter is the share by which a wait is shorter or longer.
	jitter = 0.2
)

// Turn is the events of a turn, as one stream over all connections that it takes.
//
// A connection that is lost behind `started` is made again, and the turn joined by Attach behind the last
// event that was returned: each event comes once. The service interrupts a turn that nobody listens to, so
// a turn that is to survive that needs OnDisconnect CONTINUE; then it also goes on when its caller leaves,
// and Interrupt stops it. A Query that fails before anything was returned is sent again where the error says
// that it may be, and only if it has a turn id.
//
// Recv and Events are for one goroutine; Close may be called from any.
type Turn struct {
	client  *Client
	ctx     context.Context
	cancel  context.CancelFunc
	request *pb.QueryRequest  // Of a Query.
	attach  *pb.AttachRequest // How the turn is joined, from the next event on.

	stream   receiver
	started  bool   // Whether there is something to join: an event was returned, or it is an Attach.
	numbered bool   // Whether an event of the turn was returned.
	finished bool   // Whether the last event was a result.
	failures int    // Since the last event.
	lost     *Error // The first of them.
	end      error
	// Of the call that is open: whether it is an Attach that has shown no event yet, and whether there was
	// no connection for it.
	attaching, unreachable bool
}

// response is what the streams of Query and Attach have in common.
type response interface {
	GetEvent() *pb.TurnEvent
	GetPart() *pb.EventPart
}

// receiver returns the next event of one call, put together if it comes in parts.
type receiver func() (*pb.TurnEvent, error)

// Query runs a turn. The call begins with the first Recv, or with the loop over Events; ctx bounds all of
// it, connections that are made again included.
func (c *Client) Query(ctx context.Context, request *pb.QueryRequest) *Turn {
	return c.turn(ctx, proto.CloneOf(request), &pb.AttachRequest{
		SessionId:              request.GetSessionId(),
		Payload:                request.GetPayload(),
		IncludePartialMessages: request.GetOptions().GetIncludePartialMessages(),
		HeartbeatInterval:      request.GetHeartbeatInterval(),
	})
}

// Attach joins a turn that is running or ended a moment ago. See Query.
func (c *Client) Attach(ctx context.Context, request *pb.AttachRequest) *Turn {
	return c.turn(ctx, nil, proto.CloneOf(request))
}

func (c *Client) turn(ctx context.Context, request *pb.QueryRequest, attach *pb.AttachRequest) *Turn {
	ctx, cancel := context.WithCancel(ctx)
	turn := &Turn{client: c, ctx: ctx, cancel: cancel, request: request, attach: attach, started: request == nil}
	// One that is neither read to its end nor closed ends with the garbage collector.
	runtime.AddCleanup(turn, func(cancel context.CancelFunc) { cancel() }, cancel)
	return turn
}

// SessionID returns the session's id. One of its own has it from `started` on.
func (t *Turn) SessionID() string { return t.attach.GetSessionId() }

// TurnID returns the turn's id, from `started` on.
func (t *Turn) TurnID() string { return t.attach.GetTurnId() }

// Close ends the call, whether or not its end was reached. What becomes of the turn then is its
// OnDisconnect's to say.
func (t *Turn) Close() { t.cancel() }

// Events returns the rest of the turn for a loop. An error is the last item. A loop that is left early ends
// the call, as Close does.
func (t *Turn) Events() iter.Seq2[*pb.TurnEvent, error] {
	return func(yield func(*pb.TurnEvent, error) bool) {
		defer t.Close()
		for {
			event, err := t.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Result reads the rest of the turn and returns its result, the last one if turns that the CLI began by
// itself follow in the stream.
func (t *Turn) Result() (*pb.TurnResult, error) {
	var result *pb.TurnResult
	for event, err := range t.Events() {
		if err != nil {
			return result, err
		}
		if found := event.GetResult(); found != nil {
			result = found
		}
	}
	return result, nil
}

// Text returns the text of the model's message that an event is, and nothing of another event.
func Text(event *pb.TurnEvent) string {
	var text strings.Builder
	for _, block := range event.GetAssistant().GetContent() {
		text.WriteString(block.GetText().GetText())
	}
	return text.String()
}

// Recv returns the next event; io.EOF behind the last one of a turn that ended with a result, otherwise an
// *Error. Once it has returned an error it does so again.
func (t *Turn) Recv() (*pb.TurnEvent, error) {
	for t.end == nil {
		event, err := t.receive()
		if err == nil {
			t.note(event)
			return event, nil
		}
		t.stream = nil
		if t.end = t.judge(err); t.end != nil {
			t.cancel()
		}
	}
	return nil, t.end
}

func (t *Turn) receive() (*pb.TurnEvent, error) {
	if t.stream == nil {
		if err := t.open(); err != nil {
			return nil, err
		}
	}
	return t.stream()
}

// open asks for the stream: by Attach where there is something to join, and by Query before.
func (t *Turn) open() error {
	t.attaching, t.unreachable = t.started, !t.client.ready(t.ctx)
	ctx := withSession(t.ctx, t.attach.GetSessionId())
	// It has waited: a connection that is lost in between counts as another try.
	wait := grpc.WaitForReady(false)
	if t.started {
		stream, err := t.client.SessionPoolServiceClient.Attach(ctx, t.attach, wait)
		if err == nil {
			t.stream = whole(stream)
		}
		return err
	}
	stream, err := t.client.SessionPoolServiceClient.Query(ctx, t.request, wait)
	if err == nil {
		t.stream = whole(stream)
	}
	return err
}

// note remembers where the turn is to be joined again.
func (t *Turn) note(event *pb.TurnEvent) {
	t.failures, t.lost, t.attaching = 0, nil, false
	if event.GetSequence() == 0 {
		return
	}
	if started := event.GetStarted(); started != nil {
		t.attach.SessionId, t.attach.TurnId = started.GetSessionId(), started.GetTurnId()
	}
	t.started, t.numbered = true, true
	t.finished = event.GetResult() != nil
	t.attach.FromSequence = event.GetSequence() + 1
}

// judge returns how the turn ends after a call has, or nil, after a wait, if another is to be made.
func (t *Turn) judge(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	failed := failure(t.ctx, err)
	if t.ctx.Err() != nil {
		return failed
	}
	failed.Advice = advice(failed, t.started)
	isLost := connectionLost(failed)
	if isLost && t.finished && !t.waits() {
		// Its last word was heard; only the call's own end was not.
		return io.EOF
	}
	if !t.mayGoOn(failed, isLost) {
		return t.explain(failed)
	}
	t.failures++
	if t.unreachable || t.failures >= t.client.attempts || failed.RetryAfter > longestWait {
		return t.explain(failed)
	}
	if t.lost == nil {
		t.lost = failed
	}
	return t.pause(failed.RetryAfter)
}

// mayGoOn reports whether another call neither repeats nor leaves out anything.
func (t *Turn) mayGoOn(failed *Error, isLost bool) bool {
	if t.numbered && t.attach.GetTurnId() == "" {
		// An Attach without a turn id, in the middle of a turn: by now another may be the last.
		return false
	}
	if isLost {
		return t.started || t.request.GetTurnId() != ""
	}
	if failed.Code != codes.Unavailable {
		return false
	}
	switch {
	case !t.started:
		return t.request.GetTurnId() != "" && failed.Advice != NoRetry
	case failed.Reason == "SHUTTING_DOWN" || failed.Reason == "SESSION_MOVED":
		// The turn is another node's, which goes on, unless it is said what it had done by its end.
		return failed.Advice == RetrySameTurn
	default:
		// What Attach itself is refused with: a turn that has ended so says so again.
		return failed.Advice == SafeToRetry && t.attaching
	}
}

// waits reports whether something may follow a result in this stream.
func (t *Turn) waits() bool {
	if t.request.GetOnBusy() == pb.BusyPolicy_BUSY_POLICY_STEER {
		return true
	}
	switch t.request.GetOnBackground() {
	case pb.BackgroundPolicy_BACKGROUND_POLICY_WAIT:
		return true
	case pb.BackgroundPolicy_BACKGROUND_POLICY_UNSPECIFIED:
		return t.request != nil && t.request.GetSessionId() == ""
	default:
		return false
	}
}

// explain says of a turn that could not be taken up again why that was tried, and whether its id may be
// asked for again.
func (t *Turn) explain(failed *Error) *Error {
	if t.lost == nil {
		return failed
	}
	explained := *failed
	explained.Message = fmt.Sprintf("%s (after: %s)", failed.Message, t.lost.Message)
	explained.cause = t.lost
	switch failed.Reason {
	case "TURN_NOT_FOUND", "SESSION_NOT_FOUND", "EVENTS_EXPIRED":
		explained.Advice = RetrySameTurn
	}
	return &explained
}

// pause waits before the next call: for what the service asks, otherwise longer each time.
func (t *Turn) pause(asked time.Duration) error {
	wait := asked
	if wait == 0 {
		wait = min(firstBackoff<<(t.failures-1), lastBackoff)
		wait += time.Duration((rand.Float64()*2 - 1) * jitter * float64(wait))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ctx.Done():
		return failure(t.ctx, t.ctx.Err())
	}
}

// connectionLost reports whether an error is the network's, or a proxy's, and no answer of the service.
func connectionLost(failed *Error) bool {
	if failed.Reason != "" {
		return false
	}
	switch failed.Code {
	case codes.Unavailable:
		return true
	case codes.Internal, codes.Unknown, codes.Canceled:
		// gRPC's words for a stream that ended without a status.
		return slices.ContainsFunc(resets, func(text string) bool { return strings.Contains(failed.Message, text) })
	default:
		return false
	}
}

var resets = []string{"RST_STREAM", "without sending trailers", "unexpected EOF"}

// whole puts the events of a stream together.
func whole[R response](stream interface{ Recv() (R, error) }) receiver {
	return func() (*pb.TurnEvent, error) {
		var parts []byte
		for next := uint32(0); ; next++ {
			item, err := stream.Recv()
			if err != nil {
				return nil, err
			}
			if item.GetPart() == nil {
				return item.GetEvent(), nil
			}
			if event, err := join(item.GetPart(), &parts, next); event != nil || err != nil {
				return event, err
			}
		}
	}
}

// failing is a stream whose errors are *Error.
type failing struct {
	grpc.ClientStream
	ctx context.Context // The caller's.
}

func (s failing) RecvMsg(message any) error { return s.failed(s.ClientStream.RecvMsg(message)) }

func (s failing) SendMsg(message any) error { return s.failed(s.ClientStream.SendMsg(message)) }

func (s failing) failed(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return failure(s.ctx, err)
}

func unavailable(message string) *Error {
	return failure(context.Background(), status.Error(codes.Unavailable, message))
}

// protocolError is of data that no connection made again would mend.
func protocolError(format string, values ...any) *Error {
	return failure(context.Background(), status.Errorf(codes.DataLoss, format, values...))
}
