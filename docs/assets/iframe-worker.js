// Search runs in a worker, which browsers refuse to pages opened from files. There, and only there, a hidden frame takes
// its place: scripts run in it, and messages go to and fro as events.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.ready = new Promise(resolve => {
        const begin = () => {
          document.body.append(frame)
          const inside = frame.contentWindow
          inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
          inside.importScripts = (...urls) => urls.reduce((before, src) => before.then(() => load(inside, src)), Promise.resolve())
          load(inside, url).then(() => resolve(inside))
        }
        document.body ? begin() : addEventListener("DOMContentLoaded", begin)
      })
    }
    postMessage(data) {
      this.ready.then(inside => inside.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {}
  }
  const load = (inside, src) => new Promise((resolve, reject) => {
    const script = inside.document.createElement("script")
    Object.assign(script, { src: new URL(src, location.href), onload: resolve, onerror: reject })
    inside.document.body.append(script)
  })
  window.Worker = window.IFrameWorker
}
