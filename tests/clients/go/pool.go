// Package pool is a small client of the session pool: turns as event streams,
// errors as reasons.
package pool

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// response is what the streams of Query and Attach have in common.
type response interface {
	GetEvent() *pb.TurnEvent
	GetPart() *pb.EventPart
}

// stream is a server stream of responses.
type stream[R response] interface {
	Recv() (R, error)
}

// next returns the next event of a stream, put together if it comes in parts.
func next[R response](s stream[R]) (*pb.TurnEvent, error) {
	var parts []byte
	for {
		item, err := s.Recv()
		if err != nil {
			return nil, err
		}
		part := item.GetPart()
		if part == nil {
			return item.GetEvent(), nil
		}
		parts = append(parts, part.GetData()...)
		if part.GetLast() {
			event := new(pb.TurnEvent)
			return event, proto.Unmarshal(parts, event)
		}
	}
}

// rest returns the events of a stream up to its end.
func rest[R response](s stream[R]) (turn, error) {
	var events turn
	for {
		event, err := next(s)
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events = append(events, event)
	}
}

// turn is the events of a turn.
type turn []*pb.TurnEvent

func (t turn) started() *pb.TurnStarted { return t[0].GetStarted() }

func (t turn) result() *pb.TurnResult { return t[len(t)-1].GetResult() }

// streamedText is the text as it arrived, piece by piece.
func (t turn) streamedText() string {
	var text strings.Builder
	for _, event := range t {
		text.WriteString(event.GetStreamEvent().GetText())
	}
	return text.String()
}

// text is the text of the model's whole messages.
func (t turn) text() string {
	var text strings.Builder
	for _, event := range t {
		for _, block := range event.GetAssistant().GetContent() {
			text.WriteString(block.GetText().GetText())
		}
	}
	return text.String()
}

// check tells what is wrong with a turn that should have ended well.
func (t turn) check() error {
	if len(t) < 2 || t.started() == nil || t.result() == nil || t.result().GetIsError() {
		return fmt.Errorf("not a whole turn that ended well: %v", t)
	}
	for i, event := range t {
		if event.GetSequence() != uint64(i+1) {
			return fmt.Errorf("event %d has the sequence %d", i+1, event.GetSequence())
		}
	}
	return nil
}

// failure is how a call failed: its code, and the details of the rich error model.
type failure struct {
	code     codes.Code
	reason   string
	domain   string
	metadata map[string]string
	fields   []string
}

func failureOf(err error) failure {
	state := status.Convert(err)
	found := failure{code: state.Code()}
	for _, detail := range state.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			found.reason, found.domain, found.metadata = detail.GetReason(), detail.GetDomain(), detail.GetMetadata()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				found.fields = append(found.fields, violation.GetField())
			}
		}
	}
	return found
}
