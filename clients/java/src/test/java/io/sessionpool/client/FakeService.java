package io.sessionpool.client;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import io.sessionpool.v1.AssistantMessage;
import io.sessionpool.v1.AttachRequest;
import io.sessionpool.v1.AttachResponse;
import io.sessionpool.v1.ContentBlock;
import io.sessionpool.v1.EventPart;
import io.sessionpool.v1.GetSessionRequest;
import io.sessionpool.v1.GetSessionResponse;
import io.sessionpool.v1.GetStatsRequest;
import io.sessionpool.v1.GetStatsResponse;
import io.sessionpool.v1.QueryRequest;
import io.sessionpool.v1.QueryResponse;
import io.sessionpool.v1.SessionPoolServiceGrpc.SessionPoolServiceImplBase;
import io.sessionpool.v1.TextBlock;
import io.sessionpool.v1.TurnEvent;
import io.sessionpool.v1.TurnResult;
import io.sessionpool.v1.TurnStarted;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** A service whose answers a test writes, on a port of its own. */
final class FakeService extends SessionPoolServiceImplBase implements AutoCloseable {
  /** What answers a call; what it throws is the call's status. */
  interface Answer<Q, R> {
    void to(Q request, ServerCallStreamObserver<R> stream) throws Exception;
  }

  final AtomicInteger calls = new AtomicInteger();
  Answer<QueryRequest, QueryResponse> query;
  Answer<AttachRequest, AttachResponse> attach;
  private Server server;
  private int port;

  FakeService() throws IOException {
    start();
  }

  /** Listens, at the same port as before if it was killed. */
  void start() throws IOException {
    server = Grpc.newServerBuilderForPort(port, InsecureServerCredentials.create()).addService(this).build().start();
    port = server.getPort();
  }

  void kill() throws InterruptedException {
    server.shutdownNow();
    server.awaitTermination();
  }

  @Override
  public void close() throws InterruptedException {
    kill();
  }

  SessionPoolClient.Builder builder() {
    return SessionPoolClient.builder("127.0.0.1:" + port);
  }

  SessionPoolClient client() {
    return builder().build().withTimeout(Duration.ofSeconds(30));
  }

  @Override
  public void query(QueryRequest request, StreamObserver<QueryResponse> stream) {
    answer(query, request, stream);
  }

  @Override
  public void attach(AttachRequest request, StreamObserver<AttachResponse> stream) {
    answer(attach, request, stream);
  }

  @Override
  public void getSession(GetSessionRequest request, StreamObserver<GetSessionResponse> stream) {
    Map<String, String> metadata = Map.of("session_id", request.getSessionId());
    stream.onError(refusal(Status.Code.NOT_FOUND, "SESSION_NOT_FOUND", Duration.ZERO, metadata));
  }

  @Override
  public void getStats(GetStatsRequest request, StreamObserver<GetStatsResponse> stream) {
    if (calls.incrementAndGet() < 3) {
      stream.onError(Status.UNAVAILABLE.asException());
      return;
    }
    stream.onNext(GetStatsResponse.newBuilder().setMaxSessions(7).build());
    stream.onCompleted();
  }

  private <Q, R> void answer(Answer<Q, R> answer, Q request, StreamObserver<R> stream) {
    ServerCallStreamObserver<R> observer = (ServerCallStreamObserver<R>) stream;
    observer.setOnCancelHandler(() -> {});
    // Before what is to happen next, for a test that counts.
    calls.incrementAndGet();
    try {
      answer.to(request, observer);
    } catch (Exception failed) {
      if (!observer.isCancelled()) {
        observer.onError(failed);
      }
      return;
    }
    if (!observer.isCancelled()) {
      observer.onCompleted();
    }
  }

  /** Waits until the caller has left. */
  static void awaitCancel(Runnable then) throws InterruptedException {
    CountDownLatch left = new CountDownLatch(1);
    Context.current().addListener(context -> left.countDown(), Runnable::run);
    if (left.await(30, TimeUnit.SECONDS)) {
      then.run();
    }
  }

  static void send(ServerCallStreamObserver<QueryResponse> stream, TurnEvent... events) {
    for (TurnEvent event : events) {
      stream.onNext(QueryResponse.newBuilder().setEvent(event).build());
    }
  }

  static void goOn(ServerCallStreamObserver<AttachResponse> stream, TurnEvent... events) {
    for (TurnEvent event : events) {
      stream.onNext(AttachResponse.newBuilder().setEvent(event).build());
    }
  }

  static TurnEvent started(String turnId) {
    TurnStarted started = TurnStarted.newBuilder().setSessionId("s").setTurnId(turnId).build();
    return TurnEvent.newBuilder().setSequence(1).setStarted(started).build();
  }

  static TurnEvent text(long sequence, String words) {
    ContentBlock block = ContentBlock.newBuilder().setText(TextBlock.newBuilder().setText(words)).build();
    AssistantMessage message = AssistantMessage.newBuilder().addContent(block).build();
    return TurnEvent.newBuilder().setSequence(sequence).setAssistant(message).build();
  }

  static TurnEvent result(long sequence, String words) {
    TurnResult result = TurnResult.newBuilder().setResult(words).build();
    return TurnEvent.newBuilder().setSequence(sequence).setResult(result).build();
  }

  /** An event in parts of at most so many bytes. */
  static List<EventPart> pieces(TurnEvent event, int size) {
    ByteString data = event.toByteString();
    List<EventPart> parts = new ArrayList<>();
    for (int from = 0; from < data.size(); from += size) {
      int to = Math.min(from + size, data.size());
      EventPart.Builder part = EventPart.newBuilder().setSequence(event.getSequence()).setIndex(parts.size());
      parts.add(part.setData(data.substring(from, to)).setLast(to == data.size()).build());
    }
    return parts;
  }

  /** An error as the service makes them. */
  static StatusRuntimeException refusal(
      Status.Code code, String reason, Duration delay, Map<String, String> metadata) {
    ErrorInfo info =
        ErrorInfo.newBuilder()
            .setDomain(SessionPoolException.DOMAIN)
            .setReason(reason)
            .putAllMetadata(metadata)
            .build();
    com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder().setCode(code.value());
    status.setMessage("words about " + reason).addDetails(Any.pack(info));
    if (!delay.isZero()) {
      com.google.protobuf.Duration.Builder wait = com.google.protobuf.Duration.newBuilder().setNanos(delay.getNano());
      wait.setSeconds(delay.getSeconds());
      status.addDetails(Any.pack(RetryInfo.newBuilder().setRetryDelay(wait).build()));
    }
    return StatusProto.toStatusRuntimeException(status.build());
  }
}
