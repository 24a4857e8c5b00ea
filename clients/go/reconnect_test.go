package sessionpool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// The service is killed in mid-stream and started again: the turn is joined behind the last event.
func TestALostConnectionIsMadeAgain(t *testing.T) {
	f := newFake(t)
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		if err := answer(stream, started("t"), text(2, "one")); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}
	joined := make(chan *pb.AttachRequest, 1)
	f.attach = func(request *pb.AttachRequest, stream attachStream) error {
		joined <- request
		return goOn(stream, text(3, "two"), result(4, "one two"))
	}
	asked := request()
	asked.TurnId = "" // Only a Query that is sent again needs one.
	asked.Payload = pb.Payload_PAYLOAD_BOTH
	asked.HeartbeatInterval = durationpb.New(time.Hour)
	asked.Options = &pb.SessionOptions{IncludePartialMessages: new(true)}
	var events []*pb.TurnEvent
	for event, err := range f.client().Query(f.context(), asked).Events() {
		if err != nil {
			t.Fatal(err)
		}
		if events = append(events, event); len(events) == 2 {
			f.server.Stop()
			f.start()
		}
	}
	same(t, events, started("t"), text(2, "one"), text(3, "two"), result(4, "one two"))
	want := &pb.AttachRequest{
		SessionId: "s", TurnId: "t", FromSequence: 3, Payload: asked.Payload,
		HeartbeatInterval: asked.HeartbeatInterval, IncludePartialMessages: true,
	}
	if got := <-joined; !proto.Equal(got, want) {
		t.Errorf("joined by %v", got)
	}
}

// What has come of an event in parts is thrown away with its connection.
func TestAConnectionIsLostBetweenParts(t *testing.T) {
	f := newFake(t)
	big := text(2, strings.Repeat("x", 100_000))
	parts := pieces(t, big, 60_000)
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		err := answer(stream, started("t"))
		err = errors.Join(err, stream.Send(&pb.QueryResponse{Item: &pb.QueryResponse_Part{Part: parts[0]}}))
		// The words of a proxy that has lost the service.
		return errors.Join(err, status.Error(codes.Unavailable, "upstream reset"))
	}
	calls := 0
	f.attach = func(request *pb.AttachRequest, stream attachStream) error {
		calls++
		if request.GetFromSequence() != 2 {
			t.Errorf("joined by %v", request)
		}
		err := stream.Send(&pb.AttachResponse{Item: &pb.AttachResponse_Part{Part: parts[0]}})
		if calls == 1 {
			return status.Error(codes.Unavailable, "upstream reset")
		}
		err = errors.Join(err, stream.Send(&pb.AttachResponse{Item: &pb.AttachResponse_Part{Part: parts[1]}}))
		return errors.Join(err, goOn(stream, result(3, "x")))
	}
	events, err := read(f.client().Query(f.context(), request()))
	if err != nil {
		t.Fatal(err)
	}
	same(t, events, started("t"), big, result(3, "x"))
}

// A service that was started again does not know the turn: whether it runs again is the caller's to say.
func TestATurnThatIsGoneIsToldWithItsCause(t *testing.T) {
	f := newFake(t)
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		return errors.Join(answer(stream, started("t")), status.Error(codes.Unavailable, "the first failure"))
	}
	f.attach = func(*pb.AttachRequest, attachStream) error {
		return refusal(codes.NotFound, "TURN_NOT_FOUND", 0, nil)
	}
	_, err := read(f.client().Query(f.context(), request()))
	found := failed(t, err, codes.NotFound, "TURN_NOT_FOUND", RetrySameTurn)
	if status.Code(found.Unwrap()) != codes.Unavailable || !strings.Contains(err.Error(), "the first failure") {
		t.Errorf("its cause is %v, its text %v", found.Unwrap(), err)
	}
}

// What is done about a Query that fails with this, before `started` and behind it.
func TestWhatIsTriedAgain(t *testing.T) {
	lost := status.Error(codes.Unavailable, "connection reset")
	told := func(code codes.Code, reason string, metadata ...string) error {
		values := map[string]string{}
		if len(metadata) > 0 {
			values["tool_use_seen"] = metadata[0]
		}
		return refusal(code, reason, time.Millisecond, values)
	}
	const again, joined, raised = "again", "joined", "raised"
	for _, test := range []struct {
		failure                   error
		withID, without, afterOne string
	}{
		{lost, again, raised, joined},
		{told(codes.Unavailable, "SESSION_MOVED"), again, raised, joined},
		{told(codes.Unavailable, "SESSION_MOVED", "false"), again, raised, raised},
		{told(codes.Unavailable, "SESSION_MOVED", "true"), raised, raised, raised},
		{told(codes.Unavailable, "SHUTTING_DOWN"), again, raised, joined},
		{told(codes.Unavailable, "SHUTTING_DOWN", "true"), raised, raised, raised},
		{told(codes.Unavailable, "CONNECT_FAILED"), again, raised, raised},
		{told(codes.Unavailable, "STORE_UNAVAILABLE"), again, raised, raised},
		{told(codes.Unavailable, "CLI_EXITED", "false"), again, raised, raised},
		{told(codes.Unavailable, "CLI_EXITED"), raised, raised, raised},
		{told(codes.ResourceExhausted, "POOL_AT_CAPACITY"), raised, raised, raised},
		{told(codes.Aborted, "SESSION_BUSY"), raised, raised, raised},
		{told(codes.DataLoss, "LISTENER_TOO_SLOW"), raised, raised, raised},
		{status.Error(codes.Internal, "a bug"), raised, raised, raised},
		{status.Error(codes.DeadlineExceeded, "late"), raised, raised, raised},
	} {
		for place, want := range map[string]string{"with": test.withID, "without": test.without, "behind": test.afterOne} {
			t.Run(fmt.Sprintf("%s/%v", place, test.failure), func(t *testing.T) {
				t.Parallel()
				f := newFake(t)
				queries := 0
				f.query = func(_ *pb.QueryRequest, stream queryStream) error {
					if queries++; queries > 1 {
						return answer(stream, started("t"), result(2, again))
					}
					if place == "behind" {
						return errors.Join(answer(stream, started("t")), test.failure)
					}
					return test.failure
				}
				f.attach = func(_ *pb.AttachRequest, stream attachStream) error {
					return goOn(stream, result(2, joined))
				}
				asked := request()
				if place == "without" {
					asked.TurnId = ""
				}
				got := raised
				if end, err := f.client().Query(f.context(), asked).Result(); err == nil {
					got = end.GetResult()
				}
				if got != want {
					t.Errorf("%s in place of %s", got, want)
				}
			})
		}
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	f := newFake(t)
	var calls atomic.Int32
	f.query = func(*pb.QueryRequest, queryStream) error {
		calls.Add(1)
		return refusal(codes.Unavailable, "CONNECT_FAILED", time.Millisecond, nil)
	}
	_, err := read(f.client(WithAttempts(3)).Query(f.context(), request()))
	failed(t, err, codes.Unavailable, "CONNECT_FAILED", SafeToRetry)
	if calls.Load() != 3 {
		t.Errorf("%d calls", calls.Load())
	}
	calls.Store(0)
	f.query = func(*pb.QueryRequest, queryStream) error {
		calls.Add(1)
		return refusal(codes.Unavailable, "CONNECT_FAILED", time.Hour, nil)
	}
	_, err = read(f.client().Query(f.context(), request()))
	if found := failed(t, err, codes.Unavailable, "CONNECT_FAILED", SafeToRetry); found.RetryAfter != time.Hour || calls.Load() != 1 {
		t.Errorf("after %v, %d calls", found.RetryAfter, calls.Load())
	}
}

// A result that was heard is the end, unless something may follow it.
func TestAConnectionIsLostBehindTheResult(t *testing.T) {
	f := newFake(t)
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		return errors.Join(answer(stream, started("t"), result(2, "done")), status.Error(codes.Unavailable, "reset"))
	}
	f.attach = func(*pb.AttachRequest, attachStream) error {
		return refusal(codes.NotFound, "TURN_NOT_FOUND", 0, nil)
	}
	client := f.client()
	if end, err := client.Query(f.context(), request()).Result(); err != nil || end.GetResult() != "done" {
		t.Errorf("%v, %v", end, err)
	}
	waiting := request()
	waiting.OnBackground = pb.BackgroundPolicy_BACKGROUND_POLICY_WAIT
	_, err := client.Query(f.context(), waiting).Result()
	failed(t, err, codes.NotFound, "TURN_NOT_FOUND", RetrySameTurn)
}

// Turns that the CLI begins by itself follow in the stream, and it is the last of them that is joined.
func TestASecondTurnInTheStream(t *testing.T) {
	f := newFake(t)
	// It counts as nothing.
	heartbeat := &pb.TurnEvent{Kind: &pb.TurnEvent_Heartbeat{}}
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		err := answer(stream, started("t"), result(2, "one"), started("b"), heartbeat)
		return errors.Join(err, status.Error(codes.Unavailable, "reset"))
	}
	f.attach = func(request *pb.AttachRequest, stream attachStream) error {
		if request.GetTurnId() != "b" || request.GetFromSequence() != 2 {
			t.Errorf("joined by %v", request)
		}
		return goOn(stream, result(2, "two"))
	}
	waiting := request()
	waiting.OnBackground = pb.BackgroundPolicy_BACKGROUND_POLICY_WAIT
	if end, err := f.client().Query(f.context(), waiting).Result(); err != nil || end.GetResult() != "two" {
		t.Errorf("%v, %v", end, err)
	}
}

// The service is gone, and the caller gives up while the client waits for it.
func TestCancelWhileReconnecting(t *testing.T) {
	f := newFake(t)
	endless(f)
	ctx, cancel := context.WithCancel(f.context())
	turn := f.client().Query(ctx, request())
	for range 2 {
		if _, err := turn.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	f.server.Stop()
	ended := make(chan error)
	go func() {
		_, err := turn.Recv()
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("it has given up by itself: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	began := time.Now()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || status.Code(err) != codes.Canceled {
		t.Errorf("ended with %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("ended after %v", took)
	}
}

func TestAServiceThatIsNotThereIsTold(t *testing.T) {
	f := newFake(t)
	f.server.Stop()
	client := f.client(WithConnectTimeout(300 * time.Millisecond))
	_, err := read(client.Query(f.context(), request()))
	failed(t, err, codes.Unavailable, "", RetrySameTurn)
	if !strings.Contains(err.Error(), "refused") {
		t.Errorf("it does not say why: %v", err)
	}
}

// Many turns at once on one connection, which is lost under all of them; no goroutine is left behind.
func TestManyTurnsAtOnce(t *testing.T) {
	f := newFake(t)
	const many = 100
	var turns sync.Map
	var begun sync.WaitGroup
	begun.Add(many)
	f.query = func(request *pb.QueryRequest, stream queryStream) error {
		if _, isThere := turns.LoadOrStore(request.GetTurnId(), true); isThere {
			// The connection was lost before `started` had come: the same turn.
			return answer(stream, started(request.GetTurnId()), result(2, request.GetTurnId()))
		}
		err := answer(stream, started(request.GetTurnId()))
		begun.Done()
		<-stream.Context().Done()
		return err
	}
	f.attach = func(request *pb.AttachRequest, stream attachStream) error {
		return goOn(stream, result(request.GetFromSequence(), request.GetTurnId()))
	}
	client := f.client()
	before := runtime.NumGoroutine()
	var all sync.WaitGroup
	for number := range many {
		all.Go(func() {
			id := fmt.Sprintf("t-%d", number)
			turn := client.Query(f.context(), &pb.QueryRequest{SessionId: id, TurnId: id, Prompt: "hello"})
			if _, err := turn.Recv(); err != nil {
				t.Error(err)
			}
			if end, err := turn.Result(); err != nil || end.GetResult() != id {
				t.Errorf("%s: %v, %v", id, end, err)
			}
		})
	}
	begun.Wait()
	f.server.Stop()
	f.start()
	all.Wait()
	deadline := time.Now().Add(limit)
	for runtime.NumGoroutine() > before+20 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if after := runtime.NumGoroutine(); after > before+20 {
		t.Errorf("%d goroutines before, %d afterwards", before, after)
	}
}

func TestAttachIsTakenUpAgainToo(t *testing.T) {
	f := newFake(t)
	calls := 0
	f.attach = func(request *pb.AttachRequest, stream attachStream) error {
		if calls++; calls == 1 {
			return errors.Join(goOn(stream, text(3, "one")), status.Error(codes.Unavailable, "reset"))
		}
		if request.GetFromSequence() != 4 {
			t.Errorf("joined by %v", request)
		}
		return goOn(stream, result(4, "one"))
	}
	asked := &pb.AttachRequest{SessionId: "s", TurnId: "t", FromSequence: 3}
	events, err := read(f.client().Attach(f.context(), asked))
	if err != nil {
		t.Fatal(err)
	}
	same(t, events, text(3, "one"), result(4, "one"))
	if asked.GetFromSequence() != 3 {
		t.Error("the caller's request was changed")
	}
}

// The service asks to wait for long, and the caller gives up meanwhile.
func TestCancelWhileWaiting(t *testing.T) {
	f := newFake(t)
	f.query = func(*pb.QueryRequest, queryStream) error {
		return refusal(codes.Unavailable, "CONNECT_FAILED", longestWait, nil)
	}
	ctx, cancel := context.WithTimeout(f.context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := read(f.client().Query(ctx, request()))
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > longestWait/2 {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// Which turn it was nobody has said, and another may be the last by now.
func TestAnAttachToNoNamedTurnIsNotTakenUpAgain(t *testing.T) {
	f := newFake(t)
	f.attach = func(request *pb.AttachRequest, stream attachStream) error {
		return errors.Join(goOn(stream, text(3, "one")), status.Error(codes.Unavailable, "reset"))
	}
	events, err := read(f.client().Attach(f.context(), &pb.AttachRequest{SessionId: "s", FromSequence: 3}))
	same(t, events, text(3, "one"))
	failed(t, err, codes.Unavailable, "", RetrySameTurn)
}
