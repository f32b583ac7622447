// The page: a file or the microphone goes to every model of the server; words appear side by side.
import { differing } from "/static/diff.js";
import { SpeechStream } from "/static/stream.js";

const $ = (id) => document.getElementById(id);
const panels = new Map();
const MESSAGES = {
  busy: "All places are taken. Try again in a few seconds.",
  draining: "The server is restarting. Try again in a few seconds.",
  internal: "The server failed on this audio. Try again.",
  idle: "No audio arrived for a while, so the server closed the stream.",
};
let streams = [];
let recording = null;
let fileJob = 0;

function setState(state, text) {
  $("status").dataset.state = state;
  $("status-text").textContent = text;
  document.documentElement.dataset.state = state;
  const listening = state === "listening";
  $("record").setAttribute("aria-pressed", String(listening));
  $("record-text").textContent = listening ? "Stop" : "Record";
  $("choose").disabled = listening;
  document.querySelector(".meter").classList.toggle("on", listening);
  if (!listening) $("level").style.transform = "";
}

class Panel {
  constructor(model) {
    const node = $("panel").content.cloneNode(true);
    this.root = node.querySelector("article");
    this.root.dataset.model = model.model;
    this.segments = new Map();
    this.root.setAttribute("aria-label", model.model);
    node.querySelector("h2").textContent = model.model;
    this.words = node.querySelector(".words");
    this.words.setAttribute("aria-label", `Words of the ${model.model}`);
    this.copy = node.querySelector(".copy");
    this.copy.onclick = () => this.copyText();
    $("results").append(node);
    this.describe(model);
  }

  describe(model) {
    const version = model.version ? `version ${model.version}, ` : "";
    this.root.querySelector(".bundle").textContent = `${version}bundle ${model.bundle_id.slice(0, 12)}, chunks of ${model.chunk_s} s`;
  }

  clear(message = "Waiting for words …") {
    this.words.replaceChildren(Object.assign(document.createElement("p"), { className: "empty", textContent: message }));
    this.segments = new Map();
    this.copy.disabled = true;
    for (const name of ["first", "lag", "audio", "decode"]) this.figure(name, "–");
  }

  figure(name, text) { this.root.querySelector(`[data-figure=${name}]`).textContent = text; }

  show(message) {
    if (!message.text) return;
    const stay = this.words.scrollTop + this.words.clientHeight >= this.words.scrollHeight - 40;
    let line = this.segments.get(message.segment);
    if (!line) {
      this.words.querySelector(".empty")?.remove();
      line = document.createElement("p");
      const at = Object.assign(document.createElement("span"), { className: "at", textContent: clock(message.times_s[0]) });
      line.append(at, document.createElement("span"));
      this.words.append(line);
      this.segments.set(message.segment, line);
    }
    line.lastChild.textContent = message.text;
    line.classList.toggle("open", message.type === "partial");
    this.copy.disabled = false;
    if (stay) this.words.scrollTop = this.words.scrollHeight;
  }

  get lines() { return [...this.segments.values()].map((line) => line.lastChild); }

  // Underline the words that `marks` names, in the order of all lines.
  mark(marks) {
    let at = 0;
    for (const line of this.lines) {
      const nodes = line.textContent.split(" ").flatMap((word, i) => {
        const node = marks[at++] ? Object.assign(document.createElement("mark"), { textContent: word }) : word;
        return i ? [" ", node] : [node];
      });
      line.replaceChildren(...nodes);
    }
  }

  // Nothing more will come: what is open stays as it is.
  settle() { for (const line of this.segments.values()) line.classList.remove("open"); }

  nothing() { if (!this.segments.size) this.words.firstChild.textContent = "No words were recognised."; }

  async copyText() {
    const text = this.lines.map((line) => line.textContent).join("\n");
    try {
      await navigator.clipboard.writeText(text);
      this.copy.textContent = "Copied";
    } catch {
      this.copy.textContent = "Not allowed";
    }
    setTimeout(() => { this.copy.textContent = "Copy text"; }, 1500);
  }
}

const clock = (s = 0) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
const seconds = (ms) => (ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

// Open a stream to every model; `live`: audio comes at the speed of speech, so that delays mean something.
function open(sampleRate, live) {
  closeStreams();
  const job = ++fileJob;
  $("legend").hidden = true;
  let running = panels.size;
  streams = [...panels].map(([name, panel]) => {
    panel.clear();
    panel.root.querySelector("[data-name=lag]").textContent = live ? "Chunk delay" : "Times real time";
    const update = (message) => {
      if (job !== fileJob) return;
      panel.show(message);
      panel.figure("audio", `${message.audio_s.toFixed(1)} s`);
      if (stream.firstWordAt !== null) panel.figure("first", seconds(stream.firstWordAt - stream.started));
      const elapsed_s = (performance.now() - stream.started) / 1000;
      if (!live) panel.figure("lag", `${(message.audio_s / elapsed_s).toFixed(0)}×`);
      else if (stream.medianDelay !== null) panel.figure("lag", seconds(stream.medianDelay));
    };
    const failed = (text, state) => {
      if (job !== fileJob) return;
      closeStreams();
      stopMicrophone();
      setState(state, text);
    };
    const stream = new SpeechStream(name, sampleRate, {
      ready: (message) => panel.describe(message),
      partial: update,
      final: (message) => {
        update(message);
        if (name === "champion" && job === fileJob) $("announce").textContent = message.text;
      },
      draining: () => { if (job === fileJob) setState($("status").dataset.state, "The server is about to restart: finish soon."); },
      end: (message) => {
        if (job !== fileJob) return;
        panel.nothing();
        panel.figure("audio", `${message.audio_s.toFixed(1)} s`);
        panel.figure("decode", seconds(message.decode_s * 1000));
        if (--running === 0) {
          stopMicrophone();
          compare();
          if (message.reason === "client") setState("idle", "Done. Drop another file or record again.");
          else if (message.reason === "draining") setState("disconnected", "The server is restarting. What it heard until then is below.");
          else setState("idle", "The longest stream this server takes has ended.");
        }
      },
      error: (message) => failed(MESSAGES[message.code] ?? message.message, "error"),
      lost: () => failed("The connection to the server was lost. What it heard until then is below.", "disconnected"),
    });
    return stream;
  });
  return job;
}

function compare() {
  if (panels.size < 2) return;
  const both = [...panels.values()];
  const marks = differing(...both.map((panel) => panel.lines.flatMap((line) => line.textContent.split(" "))));
  if (!marks) return;
  both.forEach((panel, i) => panel.mark(marks[i]));
  $("legend").hidden = !marks.flat().includes(true);
}

function closeStreams() {
  for (const stream of streams) stream.stop();
  streams = [];
  for (const panel of panels.values()) panel.settle();
}

async function record() {
  if (recording) { finishRecording(); return; }
  let media;
  try {
    // Speech models are trained on what the microphone hears, not on what a browser makes of it.
    media = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false } });
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    setState("error", denied ? "The browser may not use the microphone. Allow it in the address bar, then try again." : "No microphone was found.");
    return;
  }
  const context = new AudioContext();
  recording = { media, context };
  try {
    await context.audioWorklet.addModule("/static/capture.js");
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    open(context.sampleRate, true);
    setState("listening", "Listening. Speak now.");
    node.port.onmessage = ({ data }) => {
      $("level").style.transform = `scaleX(${Math.min(1, data.peak * 1.4)})`;
      for (const stream of streams) stream.send(data.pcm);
    };
    await Promise.all(streams.map((stream) => stream.isReady));
    if (recording?.context !== context) return; // stopped meanwhile
    context.createMediaStreamSource(media).connect(node);
  } catch (error) {
    stopMicrophone();
    closeStreams();
    setState("error", `The microphone could not be read (${error.message}).`);
  }
}

function finishRecording() {
  stopMicrophone();
  setState("decoding", "Waiting for the last words …");
  for (const stream of streams) stream.end();
}

function stopMicrophone() {
  if (!recording) return;
  for (const track of recording.media.getTracks()) track.stop();
  recording.context.close();
  recording = null;
}

async function takeFile(file) {
  if (!file) return;
  stopMicrophone();
  closeStreams();
  const job = ++fileJob;
  for (const panel of panels.values()) panel.clear();
  setState("decoding", `Reading ${file.name} …`);
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await file.arrayBuffer());
  } catch {
    if (job === fileJob) await upload(file, job);
    return;
  }
  if (job === fileJob) await streamFile(file.name, audio);
}

async function streamFile(name, audio) {
  const mono = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    audio.getChannelData(channel).forEach((sample, i) => { mono[i] += sample / audio.numberOfChannels; });
  }
  const pcm = Int16Array.from(mono, (sample) => Math.round(Math.max(-1, Math.min(1, sample)) * 32767));
  const job = open(16000, false);
  setState("decoding", `Decoding ${name}, ${audio.duration.toFixed(1)} s …`);
  await Promise.all(streams.map(async (stream) => {
    for (let at = 0; at < pcm.length && job === fileJob && !stream.isOver; at += 8000) {
      await stream.writable();
      stream.send(pcm.slice(at, at + 8000).buffer);
    }
    await stream.writable();
    stream.end();
  }));
}

// The server may know formats that this browser does not; its words then come all at once.
async function upload(file, job) {
  setState("decoding", `This browser cannot decode ${file.name}; the server tries …`);
  try {
    for (const [name, panel] of panels) {
      const answer = await fetch(`/v1/transcribe?mix_down=true&model=${name}`, { method: "POST", body: file });
      const result = await answer.json();
      if (job !== fileJob) return;
      if (!answer.ok) {
        for (const each of panels.values()) each.clear("No words.");
        setState("error", answer.status === 422 ? `${file.name} is not audio that can be decoded.` : result.error.message);
        return;
      }
      panel.show({ type: "final", segment: 0, ...result });
      panel.nothing();
      panel.figure("audio", `${result.duration_s.toFixed(1)} s`);
      panel.figure("decode", seconds(result.decode_s * 1000));
    }
    compare();
    setState("idle", "Done. Drop another file or record again.");
  } catch {
    if (job === fileJob) setState("disconnected", "The server does not answer.");
  }
}

function listenToThePage() {
  const drop = $("drop");
  $("record").onclick = record;
  $("choose").onclick = () => $("file").click();
  $("file").onchange = () => { takeFile($("file").files[0]); $("file").value = ""; };
  // Anywhere on the page: a file that misses the box must not replace the page.
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    takeFile(event.dataTransfer.files[0]);
  });
}

async function start() {
  listenToThePage();
  try {
    const { models } = await (await fetch("/v1/models")).json();
    for (const [name, model] of Object.entries(models)) {
      panels.set(name, new Panel(model));
      panels.get(name).clear("No words yet.");
    }
    setState("idle", "Ready.");
  } catch {
    setState("disconnected", "The server does not answer. Reload the page when it is back.");
    $("record").disabled = $("choose").disabled = true;
  }
}

start();
