// One stream to /v1/stream: sends audio, hands on what comes back, measures how long the words took.

const MAX_BUFFERED_BYTES = 1 << 18;

export class SpeechStream {
  // on: ready, partial, final, end, error (a text for people); each is called with the server's message.
  constructor(model, sampleRate, on) {
    this.on = on;
    this.rate = sampleRate;
    this.sentSamples = 0;
    this.sentAt = []; // [seconds of audio sent, time] of each block, for delays
    this.delays = [];
    this.started = performance.now();
    this.firstWordAt = null;
    this.isOver = false;
    const url = new URL("/v1/stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.isReady = new Promise((resolve) => { this.resolveReady = resolve; });
    this.socket.onopen = () => this.socket.send(JSON.stringify({ type: "start", sample_rate: sampleRate, format: "s16le", model }));
    this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.socket.onclose = (event) => this.closed(event);
  }

  send(pcm) {
    if (this.isOver || this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(pcm);
    this.sentSamples += pcm.byteLength / 2;
    this.sentAt.push([this.sentSamples / this.rate, performance.now()]);
  }

  // Also before the server has answered: somebody may stop as soon as they have started.
  async end() {
    await this.isReady;
    if (!this.isOver && this.socket.readyState === WebSocket.OPEN) this.socket.send('{"type":"end"}');
  }

  stop() {
    this.isOver = true;
    this.resolveReady();
    this.socket.close();
  }

  // A server that is busy stops reading; a browser would then pile up what is sent.
  async writable() {
    await this.isReady;
    while (!this.isOver && this.socket.bufferedAmount > MAX_BUFFERED_BYTES) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  get medianDelay() {
    if (!this.delays.length) return null;
    const sorted = [...this.delays].sort((a, b) => a - b);
    return sorted[sorted.length >> 1];
  }

  receive(message) {
    if (message.type === "ready") this.resolveReady();
    if (message.type === "partial" || message.type === "final") {
      const now = performance.now();
      if (this.firstWordAt === null && message.text) this.firstWordAt = now;
      // The block that completed the audio of this result: everything before it is answered.
      let at = null;
      while (this.sentAt.length && this.sentAt[0][0] < message.audio_s) this.sentAt.shift();
      if (this.sentAt.length) at = this.sentAt[0][1];
      if (at !== null) this.delays.push(now - at);
    }
    if (message.type === "end" || message.type === "error") this.isOver = true;
    if (message.type === "error") this.resolveReady();
    this.on[message.type]?.(message);
  }

  closed(event) {
    this.resolveReady();
    if (this.isOver) return;
    this.isOver = true;
    this.on.lost?.(event.code);
  }
}
