package sessionpool

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

func request() *pb.QueryRequest {
	return &pb.QueryRequest{SessionId: "s", TurnId: "t", Prompt: "hello"}
}

func TestATurnIsReadToItsEnd(t *testing.T) {
	f := newFake(t)
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		return answer(stream, started("t"), text(2, "one"), result(3, "one"))
	}
	turn := f.client().Query(f.context(), request())
	events, err := read(turn)
	if err != nil {
		t.Fatal(err)
	}
	same(t, events, started("t"), text(2, "one"), result(3, "one"))
	if turn.TurnID() != "t" || turn.SessionID() != "s" {
		t.Errorf("turn %q of session %q", turn.TurnID(), turn.SessionID())
	}
	for range 2 {
		if _, err := turn.Recv(); err != io.EOF {
			t.Errorf("behind its end: %v", err)
		}
	}
}

func TestAnEventInPartsIsOne(t *testing.T) {
	f := newFake(t)
	big := text(2, strings.Repeat("x", 5_000_000))
	parts := pieces(t, big, 3<<20)
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		err := answer(stream, started("t"))
		for _, part := range parts {
			err = errors.Join(err, stream.Send(&pb.QueryResponse{Item: &pb.QueryResponse_Part{Part: part}}))
		}
		return errors.Join(err, answer(stream, result(3, "x")))
	}
	events, err := read(f.client().Query(f.context(), request()))
	if err != nil {
		t.Fatal(err)
	}
	same(t, events, started("t"), big, result(3, "x"))
}

func TestPartsThatDoNotFitAreAnError(t *testing.T) {
	f := newFake(t)
	parts := pieces(t, text(2, "some words"), 5)
	for name, wrong := range map[string][]*pb.EventPart{
		"one is missing": {parts[0], parts[2]},
		"no event":       {{Sequence: 2, Data: []byte{0xff}, Last: true}},
	} {
		f.query = func(_ *pb.QueryRequest, stream queryStream) error {
			for _, part := range wrong {
				if err := stream.Send(&pb.QueryResponse{Item: &pb.QueryResponse_Part{Part: part}}); err != nil {
					return err
				}
			}
			return nil
		}
		_, err := read(f.client().Query(f.context(), request()))
		if status.Code(err) != codes.DataLoss {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// endless is a turn that goes on until its caller is gone, which it tells.
func endless(f *fake) (gone chan struct{}) {
	gone = make(chan struct{})
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		if err := answer(stream, started("t"), text(2, "one")); err != nil {
			return err
		}
		<-stream.Context().Done()
		close(gone)
		return nil
	}
	return gone
}

func awaited(t testing.TB, gone <-chan struct{}) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(limit):
		t.Error("the call goes on")
	}
}

func TestALoopThatIsLeftEndsTheCall(t *testing.T) {
	f := newFake(t)
	gone := endless(f)
	for event, err := range f.client().Query(f.context(), request()).Events() {
		if err != nil {
			t.Fatal(err)
		}
		if event.GetAssistant() != nil {
			break
		}
	}
	awaited(t, gone)
}

func TestCloseEndsARecvThatWaits(t *testing.T) {
	f := newFake(t)
	gone := endless(f)
	turn := f.client().Query(f.context(), request())
	for range 2 {
		if _, err := turn.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error)
	go func() {
		_, err := turn.Recv()
		ended <- err
	}()
	turn.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) || status.Code(err) != codes.Canceled {
		t.Errorf("ended with %v", err)
	}
	awaited(t, gone)
}

func TestADeadlineEndsATurn(t *testing.T) {
	f := newFake(t)
	gone := endless(f)
	ctx, cancel := context.WithTimeout(f.context(), 200*time.Millisecond)
	defer cancel()
	_, err := read(f.client().Query(ctx, request()))
	failed(t, err, codes.DeadlineExceeded, "", NoRetry)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v is not the context's", err)
	}
	awaited(t, gone)
}

// Who does not read holds up nobody else on the connection, and loses nothing.
func TestASlowReader(t *testing.T) {
	f := newFake(t)
	const many = 500
	big := strings.Repeat("x", 100_000)
	f.query = func(request *pb.QueryRequest, stream queryStream) error {
		if request.GetSessionId() == "quick" {
			return answer(stream, started("t"), result(2, "quick"))
		}
		err := answer(stream, started("t"))
		for sequence := uint64(2); err == nil && sequence <= many; sequence++ {
			err = answer(stream, text(sequence, big))
		}
		return err
	}
	client := f.client()
	slow := client.Query(f.context(), request())
	if _, err := slow.Recv(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		asked := &pb.QueryRequest{SessionId: "quick", Prompt: "hello"}
		if end, err := client.Query(f.context(), asked).Result(); err != nil || end.GetResult() != "quick" {
			t.Fatalf("%v, %v", end, err)
		}
	}
	next := uint64(2)
	for event, err := range slow.Events() {
		if err != nil {
			t.Fatal(err)
		}
		if event.GetSequence() != next {
			t.Fatalf("event %d in place of %d", event.GetSequence(), next)
		}
		next++
	}
	if next != many+1 {
		t.Errorf("%d events", next-1)
	}
}

func TestEventsThatAreMissingAreTold(t *testing.T) {
	f := newFake(t)
	f.query = func(_ *pb.QueryRequest, stream queryStream) error {
		err := refusal(codes.DataLoss, "LISTENER_TOO_SLOW", 0, map[string]string{"limit": "7"})
		return errors.Join(answer(stream, started("t")), err)
	}
	_, err := read(f.client().Query(f.context(), request()))
	found := failed(t, err, codes.DataLoss, "LISTENER_TOO_SLOW", AttachAgain)
	if first, ok := found.FirstKept(); !ok || first != 7 {
		t.Errorf("kept from %d", first)
	}
}

// The service's clock says that the deadline has passed before the caller's does; and what somebody else has
// cancelled is not the caller's doing.
func TestTheServiceEndsATurn(t *testing.T) {
	f := newFake(t)
	for code, cause := range map[codes.Code]error{codes.DeadlineExceeded: context.DeadlineExceeded, codes.Canceled: nil} {
		f.query = func(_ *pb.QueryRequest, stream queryStream) error {
			return errors.Join(answer(stream, started("t")), status.Error(code, "by the service"))
		}
		_, err := read(f.client().Query(f.context(), request()))
		if found := failed(t, err, code, "", NoRetry); found.Unwrap() != cause {
			t.Errorf("%v has the cause %v", code, found.Unwrap())
		}
	}
}

// A turn that is neither read to its end nor closed.
func TestATurnThatNobodyHoldsIsClosed(t *testing.T) {
	f := newFake(t)
	gone := endless(f)
	if _, err := f.client().Query(f.context(), request()).Recv(); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(limit)
	for {
		runtime.GC()
		select {
		case <-gone:
			return
		case <-deadline:
			t.Fatal("the call goes on")
		case <-time.After(10 * time.Millisecond):
		}
	}
}
