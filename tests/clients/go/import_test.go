package pool

import (
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
	importer "session-pool/tests/clients/go/gen-importer/v1"
)

// A contract of somebody else's imports ours by the path that our go_package says.
func TestF7_AnotherContractImportsOurs(t *testing.T) {
	started := &pb.TurnEvent{Sequence: 1, Kind: &pb.TurnEvent_Started{Started: &pb.TurnStarted{TurnId: "t"}}}
	ticket := &importer.Ticket{
		Number:  7,
		Request: &pb.QueryRequest{SessionId: "s", Prompt: "hi"},
		Events:  []*pb.TurnEvent{started},
	}
	bytes, err := proto.Marshal(ticket)
	if err != nil {
		t.Fatal(err)
	}
	read := &importer.Ticket{}
	if err := proto.Unmarshal(bytes, read); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(ticket, read) || read.Events[0].GetStarted().GetTurnId() != "t" {
		t.Errorf("not the same: %v", read)
	}
}

// The items of a stream are a oneof, with the numbers that they always had.
func TestF7_ItemsOfAStreamAreAOneof(t *testing.T) {
	item := (&pb.QueryResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("item")
	if item == nil || item.Fields().Len() != 2 {
		t.Fatal("no oneof")
	}
	for name, number := range map[string]int32{"event": 1, "part": 2} {
		field := item.Fields().ByTextName(name)
		if field == nil || int32(field.Number()) != number {
			t.Errorf("%s is %v, not number %d", name, field, number)
		}
	}
}
