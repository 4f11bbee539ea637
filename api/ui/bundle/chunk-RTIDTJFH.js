function n(e){return!["queued","running","waiting","paused"].includes(e)}export{n as a};
