// A tool server in Go: offers a tool `temperature` to all sessions, and answers its calls.
//
//	go run tool_server.go weather
//
// The service needs `policy.tool_servers = true`, and a session `options.tool_servers = ["weather"]`.
// SESSION_POOL_SERVER is the service's address (default localhost:50051). Needs stubs made from
// `proto/` as docs/go.md shows. See docs/tools.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/session-pool/session-pool/gen/go/sessionpool/v1"
)

// temperature is the tool itself. An error is told to the model, which may try again.
func temperature(argumentsJSON string) (string, error) {
	var arguments struct {
		City string `json:"city"`
	}
	if err := json.Unmarshal([]byte(argumentsJSON), &arguments); err != nil {
		return "", err
	}
	switch arguments.City {
	case "":
		return "", errors.New("the argument city is missing")
	case "Atlantis":
		return "", errors.New("there is no city Atlantis")
	}
	return fmt.Sprintf("%d degrees in %s", 10+len(arguments.City), arguments.City), nil
}

func answer(call *pb.ToolCall) *pb.ServeToolsRequest {
	text, err := temperature(call.GetArgumentsJson())
	if err != nil {
		text = err.Error()
	}
	content := []*pb.ToolContent{{Block: &pb.ToolContent_Text{Text: text}}}
	result := &pb.ToolResult{CallId: call.GetCallId(), Content: content, IsError: err != nil}
	return &pb.ServeToolsRequest{Message: &pb.ServeToolsRequest_Result{Result: result}}
}

func register(server string) *pb.ServeToolsRequest {
	tool := &pb.Tool{
		Name:        "temperature",
		Description: "The temperature in a city, in degrees Celsius.",
		InputSchemaJson: `{"type": "object", "properties": {"city": {"type": "string"}},
			"required": ["city"]}`,
		AnnotationsJson: `{"readOnlyHint": true}`,
	}
	offer := &pb.RegisterTools{
		Server: server, Tools: []*pb.Tool{tool}, Sessions: &pb.ToolSessions{All: true},
	}
	return &pb.ServeToolsRequest{Message: &pb.ServeToolsRequest_Register{Register: offer}}
}

func serve(address, server string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	stream, err := pb.NewSessionPoolServiceClient(connection).ServeTools(context.Background())
	if err != nil {
		return err
	}
	if err := stream.Send(register(server)); err != nil {
		return err
	}
	// One answer is sent at a time; calls are answered side by side.
	var sending sync.Mutex
	for {
		told, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch message := told.GetMessage().(type) {
		case *pb.ServeToolsResponse_Registered:
			fmt.Println("registered")
		case *pb.ServeToolsResponse_Call:
			go func() {
				result := answer(message.Call)
				sending.Lock()
				defer sending.Unlock()
				// A stream that has ended says so to Recv.
				_ = stream.Send(result)
			}()
		case *pb.ServeToolsResponse_Cancel:
			fmt.Println("cancelled:", message.Cancel.GetReason())
		}
	}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "tool_server: the name of the tool server is needed")
		os.Exit(2)
	}
	address := os.Getenv("SESSION_POOL_SERVER")
	if address == "" {
		address = "localhost:50051"
	}
	if err := serve(address, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "tool_server:", err)
		os.Exit(1)
	}
}
