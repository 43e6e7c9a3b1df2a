// Calls to the worker: `call.train(request)` sends a command and returns a promise of its result.
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
const listeners = new Map();
let last = 0;

worker.onmessage = ({ data: { id, result, error, event, detail } }) => {
  if (event) {
    listeners.get(event)?.(detail);
    return;
  }
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  error === undefined ? resolve(result) : reject(new Error(error));
};

// The worker could not be loaded, or its memory is exhausted.
worker.onerror = (event) => {
  event.preventDefault();
  const error = new Error(event.message || "the worker could not be started; this browser may be too old, or offline");
  for (const { reject } of waiting.values()) reject(error);
  waiting.clear();
  listeners.get("failed")?.(error);
};

export const call = new Proxy({}, {
  get: (_, command) => (...args) => new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    worker.postMessage({ id: last, command, args });
  }),
});

// Calls `listener` with the details of each event of this kind.
export function on(event, listener) {
  listeners.set(event, listener);
}
