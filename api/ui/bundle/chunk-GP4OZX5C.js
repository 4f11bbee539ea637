import{i as t,k as o}from"./chunk-3MFA6QVI.js";function r(){let e=o(null);return t(()=>{e.current?.showModal()},[]),e}export{r as a};
