import{i as t,k as o}from"./chunk-N3NUYFSR.js";function r(){let e=o(null);return t(()=>{e.current?.showModal()},[]),e}export{r as a};
