package io.sessionpool.client;

import static io.sessionpool.client.Conformance.LIMIT;
import static io.sessionpool.client.Conformance.THREADS;
import static io.sessionpool.client.Conformance.check;
import static io.sessionpool.client.Conformance.control;
import static io.sessionpool.client.Conformance.echoed;
import static io.sessionpool.client.Conformance.failed;
import static io.sessionpool.client.Conformance.file;
import static io.sessionpool.client.Conformance.interrupted;
import static io.sessionpool.client.Conformance.lasting;
import static io.sessionpool.client.Conformance.oneIsLarge;
import static io.sessionpool.client.Conformance.query;
import static io.sessionpool.client.Conformance.rest;
import static io.sessionpool.client.Conformance.script;
import static io.sessionpool.client.Conformance.since;
import static io.sessionpool.client.Conformance.until;
import static io.sessionpool.client.Conformance.usable;
import static io.sessionpool.client.Conformance.variable;
import static io.sessionpool.client.Conformance.whole;

import com.google.gson.JsonParser;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.sessionpool.client.Conformance.Step;
import io.sessionpool.client.Conformance.Wrong;
import io.sessionpool.v1.AttachRequest;
import io.sessionpool.v1.ContentBlock;
import io.sessionpool.v1.GetSessionRequest;
import io.sessionpool.v1.InterruptOutcome;
import io.sessionpool.v1.InterruptRequest;
import io.sessionpool.v1.InterruptResponse;
import io.sessionpool.v1.ListSessionsRequest;
import io.sessionpool.v1.QueryRequest;
import io.sessionpool.v1.QueuedTurn;
import io.sessionpool.v1.Session;
import io.sessionpool.v1.TurnEvent;
import io.sessionpool.v1.TurnResult;
import io.sessionpool.v1.Usage;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** The steps of clients/CONFORMANCE.md. */
final class Steps {
  static final List<Step> ALL =
      List.of(
          new Step("stream", false, Steps::stream),
          new Step("text", false, Steps::text),
          new Step("numbers", false, Steps::numbers),
          new Step("parts", false, Steps::parts),
          new Step("cancel", false, Steps::cancel),
          new Step("dropped", false, Steps::dropped),
          new Step("deadline", false, Steps::deadline),
          new Step("interrupt", false, Steps::interrupt),
          new Step("error-info", false, Steps::errorInfo),
          new Step("bad-request", false, Steps::badRequest),
          new Step("retry-info", false, Steps::retryInfo),
          new Step("attach", true, Steps::attach),
          new Step("attach-parts", true, Steps::attachParts),
          new Step("attach-from", false, Steps::attachFrom),
          new Step("retry-turn", true, Steps::retryTurn),
          new Step("cancel-reconnecting", true, Steps::cancelReconnecting),
          new Step("concurrent", false, Steps::concurrent),
          new Step("health", false, Steps::health),
          new Step("service-config", false, Steps::serviceConfig),
          new Step("session-id", false, Steps::sessionId),
          new Step("tls-token", false, Steps::tlsToken),
          new Step("tls-wrong-token", false, Steps::tlsWrongToken),
          new Step("mutual-tls", false, Steps::mutualTls),
          new Step("mutual-tls-no-certificate", false, Steps::mutualTlsNoCertificate));

  private static void stream(Step s) {
    StringBuilder text = new StringBuilder();
    echoed(s.plain(), query(s.session(), "hello")).forEach(event -> text.append(Turn.text(event)));
    check(text.toString().equals("echo: hello"), "the text is", text);
  }

  private static void text(Step s) {
    echoed(s.plain(), query(s.session(), "Grüße, 世界 🦀 e\u0301 \\ \""));
  }

  private static void numbers(Step s) {
    String frame =
        "raw {\"type\":\"assistant\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\","
            + "\"model\":\"m\",\"content\":[{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"T\",\"input\":"
            + "{\"n\":12345678901234567890,\"f\":0.1}}],\"usage\":{\"input_tokens\":9007199254740993,"
            + "\"output_tokens\":18446744073709551615}},\"parent_tool_use_id\":null,\"session_id\":"
            + "\"00000000-0000-4000-8000-000000000000\",\"uuid\":\"00000000-0000-4000-8000-000000000001\"}";
    for (TurnEvent event : rest(s.plain().query(query(s.session(), script(frame))))) {
      Usage usage = event.getAssistant().getUsage();
      if (usage.getInputTokens() == 9007199254740993L) {
        check(Long.toUnsignedString(usage.getOutputTokens()).equals("18446744073709551615"), usage);
        ContentBlock block = event.getAssistant().getContent(0);
        String input = block.getToolUse().getInputJson();
        check(input.equals("{\"n\":12345678901234567890,\"f\":0.1}"), input);
        return;
      }
    }
    throw new Wrong("no such event");
  }

  private static void parts(Step s) {
    String session = s.session();
    List<TurnEvent> events = rest(s.plain().query(query(session, script("big 5000000"))));
    whole(events, session);
    oneIsLarge(events);
  }

  private static void cancel(Step s) throws Exception {
    SessionPoolClient client = s.plain();
    String session = s.session();
    Turn turn = client.query(query(session, script("say one", "hang")));
    until(turn, "one");
    Future<Boolean> ended = THREADS.submit(turn::hasNext);
    turn.close();
    cancelled(ended);
    usable(client, session);
  }

  private static void cancelled(Future<Boolean> ended) throws Exception {
    try {
      check(false, "it ended with", ended.get(5, TimeUnit.SECONDS));
    } catch (ExecutionException failed) {
      check(failed.getCause() instanceof CancellationException, "it ended with", failed.getCause());
    }
  }

  private static void dropped(Step s) {
    SessionPoolClient client = s.plain();
    String session = s.session();
    try (Turn turn = client.query(query(session, script("say one", "hang")))) {
      for (TurnEvent event : turn) {
        if (Turn.text(event).equals("one")) {
          break;
        }
      }
    }
    usable(client, session);
  }

  private static void deadline(Step s) throws Exception {
    SessionPoolClient client = s.plain();
    // Connected, and its classes are loaded.
    check(client.isHealthy(), "it is not healthy");
    long began = System.nanoTime();
    Turn turn = client.withTimeout(Duration.ofSeconds(1)).query(query(s.session(), script("hang")));
    SessionPoolException failed = failed(turn::result);
    check(failed.code() == Status.Code.DEADLINE_EXCEEDED, failed);
    check(since(began) > 900 && since(began) < 4000, "after", since(began), "ms");
  }

  private static void interrupt(Step s) {
    String session = s.session();
    Turn turn = s.plain().query(query(session, script("say one", "hang")));
    until(turn, "one");
    InterruptRequest request = InterruptRequest.newBuilder().setSessionId(session).setKeepSession(true).build();
    InterruptResponse answer = s.plain().interrupt(request);
    check(answer.getInterrupted() && answer.getHadActiveTurn(), "the answer is", answer);
    check(answer.getOutcome() == InterruptOutcome.INTERRUPT_OUTCOME_INTERRUPTED, "the answer is", answer);
    interrupted(turn);
  }

  private static void errorInfo(Step s) throws Exception {
    String session = s.session();
    GetSessionRequest request = GetSessionRequest.newBuilder().setSessionId(session).build();
    SessionPoolClient client = s.plain();
    SessionPoolException failed = failed(() -> client.getSession(request));
    check(failed.code() == Status.Code.NOT_FOUND && failed.reason().equals("SESSION_NOT_FOUND"), failed);
    check(session.equals(failed.metadata().get("session_id")), failed.metadata());
    check(failed.advice() == Advice.NO_RETRY, failed.advice());
    check(SessionPoolException.DOMAIN.equals("sessionpool.v1"), SessionPoolException.DOMAIN);
  }

  private static void badRequest(Step s) throws Exception {
    SessionPoolException failed = failed(s.plain().query(query(s.session(), ""))::result);
    check(failed.reason().equals("INVALID_ARGUMENT"), failed);
    check(failed.violations().stream().anyMatch(v -> v.field().equals("prompt")), failed.violations());
  }

  private static void retryInfo(Step s) throws Exception {
    SessionPoolClient client = s.plain();
    String session = s.session();
    GetSessionRequest look = GetSessionRequest.newBuilder().setSessionId(session).build();
    Turn first = client.query(query(session, script("say one", "hang")));
    until(first, "one");
    Turn second = client.query(query(session, "behind it"));
    Future<TurnResult> waits = THREADS.submit(second::result);
    Session state;
    do {
      state = client.getSession(look).getSession();
    } while (state.getQueuedTurns() != 1);
    SessionPoolException failed = failed(client.query(query(session, "too many"))::result);
    check(failed.reason().equals("QUEUE_FULL") && failed.code() == Status.Code.RESOURCE_EXHAUSTED, failed);
    check(failed.retryDelay().compareTo(Duration.ZERO) > 0, "the delay is", failed.retryDelay());
    check(failed.advice() == Advice.RETRY, failed.advice());
    for (QueuedTurn queued : state.getQueueList()) {
      client.interrupt(
          InterruptRequest.newBuilder().setSessionId(session).setTurnId(queued.getTurnId()).build());
    }
    SessionPoolException ended = failed(() -> value(waits));
    check(ended.reason().equals("TURN_INTERRUPTED"), ended);
    client.interrupt(InterruptRequest.newBuilder().setSessionId(session).setKeepSession(true).build());
    interrupted(first);
  }

  private static <T> T value(Future<T> future) throws Exception {
    try {
      return future.get(LIMIT.toSeconds(), TimeUnit.SECONDS);
    } catch (ExecutionException failed) {
      throw (Exception) failed.getCause();
    }
  }

  private static void attach(Step s) throws Exception {
    String session = s.session();
    Turn turn = s.plain().query(lasting(session, "say one", "sleep 500", "say two"));
    List<TurnEvent> events = until(turn, "one");
    control("/cut");
    events.addAll(rest(turn));
    whole(events, session);
    List<String> said = events.stream().map(Turn::text).filter(text -> !text.isEmpty()).toList();
    check(said.equals(List.of("one", "two")), "the texts are", said);
  }

  private static void attachParts(Step s) throws Exception {
    String session = s.session();
    Turn turn = s.plain().query(lasting(session, "say one", "sleep 300", "big 5000000"));
    List<TurnEvent> events = until(turn, "one");
    control("/cut-after/3500000");
    events.addAll(rest(turn));
    whole(events, session);
    oneIsLarge(events);
  }

  private static void attachFrom(Step s) {
    SessionPoolClient client = s.plain();
    String session = s.session();
    Turn turn = client.query(query(session, "hello"));
    List<TurnEvent> events = rest(turn);
    AttachRequest request =
        AttachRequest.newBuilder().setSessionId(session).setTurnId(turn.turnId()).setFromSequence(2).build();
    List<TurnEvent> again = rest(client.attach(request));
    check(again.equals(events.subList(1, events.size())), again, "in place of", events);
  }

  private static void retryTurn(Step s) throws Exception {
    String session = s.session();
    QueryRequest request = query(session, "hello").toBuilder().setTurnId(session).build();
    SessionPoolClient client = s.plain();
    control("/refuse");
    Future<List<TurnEvent>> first = THREADS.submit(() -> echoed(client, request));
    try {
      first.get(300, TimeUnit.MILLISECONDS);
      throw new Wrong("it was not refused");
    } catch (TimeoutException tried) {
      control("/accept");
    }
    check(value(first).get(0).getStarted().getTurnId().equals(session), "another turn");
    List<TurnEvent> again = rest(client.query(request));
    check(again.get(0).getStarted().getTurnId().equals(session), "another turn", again.get(0));
    check(again.get(again.size() - 1).getResult().getResult().equals("echo: hello"), again);
    GetSessionRequest look = GetSessionRequest.newBuilder().setSessionId(session).build();
    long count = client.getSession(look).getSession().getMessageCount();
    check(count == 1, count, "messages");
  }

  private static void cancelReconnecting(Step s) throws Exception {
    String session = s.session();
    Turn turn = s.plain().query(lasting(session, "say one", "hang"));
    until(turn, "one");
    control("/refuse");
    control("/cut");
    Future<Boolean> ended = THREADS.submit(turn::hasNext);
    try {
      throw new Wrong("it has given up by itself: " + ended.get(300, TimeUnit.MILLISECONDS));
    } catch (TimeoutException tries) {
      long began = System.nanoTime();
      turn.close();
      cancelled(ended);
      check(since(began) < 2000, "it ended after", since(began), "ms");
    } finally {
      control("/accept");
    }
    // It would go on for its caller to come back.
    InterruptRequest stop = InterruptRequest.newBuilder().setSessionId(session).build();
    s.client(SessionPoolClient.builder(variable("CONFORMANCE_PLAIN"))).interrupt(stop);
  }

  private static void concurrent(Step s) throws Exception {
    SessionPoolClient client = s.plain();
    List<Future<List<TurnEvent>>> all = new ArrayList<>();
    for (int number = 0; number < 16; number++) {
      QueryRequest request = query(s.session(), "turn " + number);
      all.add(THREADS.submit(() -> echoed(client, request)));
    }
    for (Future<List<TurnEvent>> one : all) {
      value(one);
    }
  }

  private static void health(Step s) throws Exception {
    SessionPoolClient client = s.plain();
    for (String service : List.of("", SessionPoolClient.SERVICE)) {
      check(client.health(service) == ServingStatus.SERVING, service, client.health(service));
    }
    check(client.isHealthy(), "it is not healthy");
    SessionPoolException failed = failed(() -> client.health("nobody"));
    check(failed.code() == Status.Code.NOT_FOUND, failed);
  }

  private static void serviceConfig(Step s) throws Exception {
    String deployed = Files.readString(Path.of(variable("CONFORMANCE_SERVICE_CONFIG")));
    String ours = SessionPoolClient.serviceConfig();
    check(JsonParser.parseString(deployed).equals(JsonParser.parseString(ours)), "they differ");
  }

  /** Notes what calls send as session-id, looking behind the client's own interceptors. */
  private static final class Noting implements ClientInterceptor {
    private static final Metadata.Key<String> KEY =
        Metadata.Key.of("session-id", Metadata.ASCII_STRING_MARSHALLER);
    private final List<List<String>> sent = Collections.synchronizedList(new ArrayList<>());

    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
      return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
        @Override
        public void start(Listener<R> listener, Metadata headers) {
          List<String> values = new ArrayList<>();
          Iterable<String> all = headers.getAll(KEY);
          if (all != null) {
            all.forEach(values::add);
          }
          sent.add(values);
          super.start(listener, headers);
        }
      };
    }
  }

  private static void sessionId(Step s) {
    Noting noting = new Noting();
    // Of interceptors the one that is added first is the last to see a call.
    SessionPoolClient.Builder builder = SessionPoolClient.builder(variable("CONFORMANCE_PLAIN"));
    SessionPoolClient client = s.client(builder.interceptor(noting));
    String session = s.session();
    echoed(client, query(session, "hello"));
    client.getSession(GetSessionRequest.newBuilder().setSessionId(session).build());
    client.query(query("", "hello")).result();
    List<List<String>> want = List.of(List.of(session), List.of(session), List.of());
    check(noting.sent.equals(want), "sent", noting.sent);
  }

  private static void tlsToken(Step s) throws Exception {
    SessionPoolClient.Builder builder = SessionPoolClient.builder(variable("CONFORMANCE_TLS"));
    builder.ca(file("CONFORMANCE_CA")).token(variable("CONFORMANCE_TOKEN"));
    echoed(s.client(builder), query(s.session(), "hello"));
  }

  private static void tlsWrongToken(Step s) throws Exception {
    String wrong = "another-token";
    SessionPoolClient.Builder builder = SessionPoolClient.builder(variable("CONFORMANCE_TLS"));
    SessionPoolClient client = s.client(builder.ca(file("CONFORMANCE_CA")).token(wrong));
    SessionPoolException failed = failed(() -> client.listSessions(ListSessionsRequest.getDefaultInstance()));
    check(failed.code() == Status.Code.UNAUTHENTICATED && failed.reason().equals("UNAUTHENTICATED"), failed);
    check(failed.advice() == Advice.NO_RETRY, failed.advice());
    String told = failed + " " + failed.metadata();
    check(!told.contains(wrong) && !told.contains(variable("CONFORMANCE_TOKEN")), "a token is told");
  }

  private static void mutualTls(Step s) throws Exception {
    SessionPoolClient.Builder builder = SessionPoolClient.builder(variable("CONFORMANCE_MUTUAL_TLS"));
    builder.ca(file("CONFORMANCE_CA"));
    builder.clientCertificate(file("CONFORMANCE_CLIENT_CERT"), file("CONFORMANCE_CLIENT_KEY"));
    echoed(s.client(builder), query(s.session(), "hello"));
  }

  private static void mutualTlsNoCertificate(Step s) throws Exception {
    SessionPoolClient.Builder builder = SessionPoolClient.builder(variable("CONFORMANCE_MUTUAL_TLS"));
    SessionPoolClient client = s.client(builder.ca(file("CONFORMANCE_CA"))).withTimeout(Duration.ofSeconds(3));
    failed(() -> client.listSessions(ListSessionsRequest.getDefaultInstance()));
  }

  private Steps() {}
}
