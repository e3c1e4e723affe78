// Sendly's Node SDK, driven by tests/sdks/main.rs: one call per line in, one outcome per line out (see ../README.md).
import { createInterface } from "node:readline";

const { Sendly } = await import(process.env.SENDLY_PACKAGE ?? "@sendly/node");

const [baseUrl, apiKey, timeoutSecs] = process.argv.slice(2);
// Its pauses and its timeout, shortened (tests/clicks/main.rs). The timeout that is given is short already.
const scale = Number(process.env.SENDLY_SCALE ?? 1);
const { setTimeout } = globalThis;
globalThis.setTimeout = (call, ms, ...rest) => setTimeout(call, ms / scale, ...rest);
const verifyAt = (url, timeout = timeoutSecs) =>
  new Sendly({ baseUrl: url, apiKey, timeout: Number(timeout) * 1000 * scale }).verify;
let verify = verifyAt(baseUrl);

const calls = {
  send: ({ to }) => verify.send({ to }),
  resend: ({ id }) => verify.resend(id),
  check: ({ id, code }) => verify.check(id, { code }),
  get: ({ id }) => verify.get(id),
};

const succeeded = ({ id, phone, status, deliveryStatus, sandboxCode }) => ({
  ok: true,
  class: "Object",
  id,
  phone,
  status,
  delivery_status: deliveryStatus,
  sandbox_code: sandboxCode,
});

const failed = (error) => ({
  ok: false,
  class: error.name,
  message: error.message,
  error: error.code,
  http: error.statusCode,
  retry_after: error.retryAfter ?? error.response?.retryAfter,
  remaining_attempts: error.response?.remaining_attempts,
});

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line);
  if (call.base_url) verify = verifyAt(call.base_url, call.timeout);
  const began = performance.now();
  const outcome = await calls[call.do](call).then(succeeded, failed);
  const elapsed_ms = Math.round(performance.now() - began);
  console.log(JSON.stringify({ step: call.do, ...outcome, elapsed_ms }));
}
