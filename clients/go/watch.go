package sessionpool

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// WatchSession follows a session over all of its turns. Its items are those of the contract, but that an
// event that comes in parts is one `event`. It is not taken up again by itself when the connection is lost:
// call it with the last cursor. A loop that is left early ends the call.
func (c *Client) WatchSession(
	ctx context.Context, request *pb.WatchSessionRequest,
) iter.Seq2[*pb.WatchSessionResponse, error] {
	return func(yield func(*pb.WatchSessionResponse, error) bool) {
		ctx, cancel := context.WithCancel(withSession(ctx, request.GetSessionId()))
		defer cancel()
		c.ready(ctx)
		stream, err := c.SessionPoolServiceClient.WatchSession(ctx, request, grpc.WaitForReady(false))
		for err == nil {
			var item *pb.WatchSessionResponse
			if item, err = watched(stream); err != nil {
				break
			}
			if !yield(item, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, err)
		}
	}
}

// watched returns the next item of a stream, an event in parts as a whole.
func watched(stream grpc.ServerStreamingClient[pb.WatchSessionResponse]) (*pb.WatchSessionResponse, error) {
	var parts []byte
	for next := uint32(0); ; next++ {
		item, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		piece := item.GetPart()
		if piece == nil {
			return item, nil
		}
		event, err := join(piece.GetPart(), &parts, next)
		if err != nil {
			return nil, err
		}
		if event != nil {
			whole := &pb.WatchedEvent{TurnId: piece.GetTurnId(), Event: event, Cursor: piece.GetCursor()}
			return &pb.WatchSessionResponse{Item: &pb.WatchSessionResponse_Event{Event: whole}}, nil
		}
	}
}

// join adds a piece to an event, and returns the event with the last of them.
func join(piece *pb.EventPart, parts *[]byte, next uint32) (*pb.TurnEvent, error) {
	if piece.GetIndex() != next {
		return nil, protocolError("part %d of event %d in the place of part %d", piece.GetIndex(), piece.GetSequence(), next)
	}
	*parts = append(*parts, piece.GetData()...)
	if !piece.GetLast() {
		return nil, nil
	}
	event := new(pb.TurnEvent)
	if err := proto.Unmarshal(*parts, event); err != nil {
		return nil, protocolError("event %d in parts: %v", piece.GetSequence(), err)
	}
	return event, nil
}
