// AudioWorklet: the microphone's samples as 16-bit blocks of a tenth of a second, and how loud they are.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.peak = 0;
  }

  process([input]) {
    const samples = input[0];
    if (!samples) return true;
    for (const sample of samples) {
      const clipped = Math.max(-1, Math.min(1, sample));
      this.peak = Math.max(this.peak, Math.abs(clipped));
      this.block[this.filled++] = Math.round(clipped * 32767);
      if (this.filled === this.block.length) {
        const full = this.block.slice();
        this.port.postMessage({ pcm: full.buffer, peak: this.peak }, [full.buffer]);
        this.filled = 0;
        this.peak = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
