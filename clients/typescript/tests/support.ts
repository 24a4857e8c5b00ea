/** What the conformance program and the tests read streams with. */
import { text, type TurnEvent, type TurnStream } from "../src";

/** All events to the end. */
export async function rest(stream: AsyncIterable<TurnEvent>): Promise<TurnEvent[]> {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

/** The events up to the text `one`. Reads without leaving the stream, which a loop that ends would cancel. */
export async function untilOne(stream: TurnStream): Promise<TurnEvent[]> {
  const seen = [];
  for (;;) {
    const { done, value } = await stream.next();
    if (done) throw new Error("the text did not come");
    seen.push(value);
    if (text(value) === "one") return seen;
  }
}
