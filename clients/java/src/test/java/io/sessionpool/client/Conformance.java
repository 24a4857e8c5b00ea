package io.sessionpool.client;

import io.grpc.Channel;
import io.sessionpool.v1.DisconnectPolicy;
import io.sessionpool.v1.QueryRequest;
import io.sessionpool.v1.TurnEvent;
import io.sessionpool.v1.TurnResult;
import java.io.File;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** Runs the steps of clients/CONFORMANCE.md, which says what each of them is, and prints a line for each. */
public final class Conformance {
  static final Duration LIMIT = Duration.ofSeconds(60);
  static final ExecutorService THREADS = Executors.newCachedThreadPool();
  private static final HttpClient HTTP =
      HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  private static final AtomicInteger SESSIONS = new AtomicInteger();

  private Conformance() {}

  interface Body {
    void run(Step step) throws Exception;
  }

  /** What is wrong with a step. */
  static final class Wrong extends RuntimeException {
    private static final long serialVersionUID = 1;

    Wrong(String words) {
      super(words);
    }
  }

  static void check(boolean holds, Object... words) {
    if (!holds) {
      StringBuilder text = new StringBuilder();
      for (Object word : words) {
        String one = String.valueOf(word);
        text.append(one, 0, Math.min(one.length(), 500)).append(' ');
      }
      throw new Wrong(text.toString());
    }
  }

  static String variable(String name) {
    return Objects.requireNonNull(System.getenv(name), name + " is not set");
  }

  static File file(String name) {
    return new File(variable(name));
  }

  static void control(String path) throws Exception {
    HttpRequest request =
        HttpRequest.newBuilder(URI.create(variable("CONFORMANCE_PROXY_CONTROL") + path))
            .POST(BodyPublishers.noBody())
            .build();
    int code = HTTP.send(request, BodyHandlers.discarding()).statusCode();
    check(code == 204, "the proxy answered", code, "to", path);
  }

  /** A prompt for the scripted CLI. */
  static String script(String... lines) {
    return "#!fake\n" + String.join("\n", lines);
  }

  static QueryRequest query(String session, String prompt) {
    return QueryRequest.newBuilder().setSessionId(session).setPrompt(prompt).build();
  }

  static QueryRequest lasting(String session, String... lines) {
    return query(session, script(lines)).toBuilder()
        .setOnDisconnect(DisconnectPolicy.DISCONNECT_POLICY_CONTINUE)
        .build();
  }

  static List<TurnEvent> rest(Turn turn) {
    List<TurnEvent> events = new ArrayList<>();
    turn.forEach(events::add);
    return events;
  }

  static List<TurnEvent> until(Turn turn, String text) {
    List<TurnEvent> events = new ArrayList<>();
    do {
      events.add(turn.next());
    } while (!Turn.text(events.get(events.size() - 1)).equals(text));
    return events;
  }

  /** Checks a turn that ended well, and returns its result. */
  static TurnResult whole(List<TurnEvent> events, String session) {
    check(events.size() > 1, events.size(), "events");
    for (int i = 0; i < events.size(); i++) {
      check(events.get(i).getSequence() == i + 1, "event", i + 1, "is", events.get(i).getSequence());
    }
    check(events.get(0).getStarted().getSessionId().equals(session), "it begins with", events.get(0));
    TurnEvent last = events.get(events.size() - 1);
    check(last.hasResult() && !last.getResult().getIsError(), "it ends with", last);
    return last.getResult();
  }

  static List<TurnEvent> echoed(SessionPoolClient client, QueryRequest request) {
    List<TurnEvent> events = rest(client.query(request));
    String got = whole(events, request.getSessionId()).getResult();
    check(got.equals("echo: " + request.getPrompt()), "the result is", got);
    return events;
  }

  static void usable(SessionPoolClient client, String session) {
    long began = System.nanoTime();
    echoed(client, query(session, "hello"));
    check(since(began) < 5000, "the next turn took", since(began), "ms");
  }

  static long since(long began) {
    return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - began);
  }

  static SessionPoolException failed(Callable<?> call) throws Exception {
    try {
      Object answer = call.call();
      throw new Wrong("in place of an error: " + answer);
    } catch (SessionPoolException failed) {
      return failed;
    }
  }

  static void oneIsLarge(List<TurnEvent> events) {
    long count = events.stream().filter(e -> e.hasAssistant() && e.getSerializedSize() > 4 << 20).count();
    check(count == 1, count, "large events");
  }

  static void interrupted(Turn turn) {
    try {
      TurnResult result = turn.result();
      check(result.getInterrupted(), "it ended with", result);
    } catch (SessionPoolException failed) {
      check(failed.reason().equals("TURN_INTERRUPTED"), "it ended with", failed);
    }
  }

  /** A step, and the clients that it made. */
  static final class Step implements Callable<Boolean> {
    private final String name;
    private final boolean proxied;
    private final Body body;
    private final List<SessionPoolClient> clients = new ArrayList<>();

    Step(String name, boolean proxied, Body body) {
      this.name = name;
      this.proxied = proxied;
      this.body = body;
    }

    String session() {
      return variable("CONFORMANCE_RUN") + "-" + name + "-" + SESSIONS.incrementAndGet();
    }

    SessionPoolClient client(SessionPoolClient.Builder builder) {
      SessionPoolClient client = builder.build();
      clients.add(client);
      return client.withTimeout(LIMIT);
    }

    SessionPoolClient plain() {
      return client(SessionPoolClient.builder(variable(proxied ? "CONFORMANCE_PROXY" : "CONFORMANCE_PLAIN")));
    }

    @Override
    public Boolean call() {
      long began = System.nanoTime();
      try {
        body.run(this);
        System.out.println("ok " + name);
        return true;
      } catch (Exception wrong) {
        wrong.printStackTrace();
        System.out.println("FAILED " + name + ": " + String.valueOf(wrong).replace('\n', ' '));
        return false;
      } finally {
        clients.forEach(SessionPoolClient::close);
        System.err.println(name + ": " + since(began) + " ms");
      }
    }
  }

  public static void main(String[] arguments) throws Exception {
    System.out.println("version session-pool-client " + SessionPoolClient.VERSION);
    System.out.println("version Java " + Runtime.version());
    for (Class<?> of : List.of(Channel.class, com.google.protobuf.Message.class)) {
      String jar = Path.of(of.getProtectionDomain().getCodeSource().getLocation().toURI()).getFileName().toString();
      System.out.println("version " + jar.replace(".jar", ""));
    }
    // Not all at once: other clients' steps run, too.
    ExecutorService some = Executors.newFixedThreadPool(4);
    List<Future<Boolean>> running = new ArrayList<>();
    for (Step step : Steps.ALL) {
      if (!step.proxied) {
        running.add(some.submit(step));
      }
    }
    boolean passed = true;
    // The cuts of one would meet the other.
    for (Step step : Steps.ALL) {
      passed &= !step.proxied || step.call();
    }
    for (Future<Boolean> one : running) {
      passed &= one.get();
    }
    System.exit(passed ? 0 : 1);
  }
}
