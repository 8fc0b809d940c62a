"""The metrics of the benchmarks, equal to their official scorers, each figure with its 95 % interval.

    benchmark                           metric                      what `meta` needs (may have)
    emotion, topic, persuasion, LVU     accuracy.top1               (category)
    short answers                       accuracy.exact_match        (category)
    memorability                        accuracy.spearman
    LVU view_count, like_ratio          accuracy.lvu_view_count, accuracy.lvu_like_ratio
    VQAv2, OK-VQA                       vqa.vqav2                   (answer_type, question_type)
    VizWiz                              vqa.vizwiz                  (answer_type)
    TextVQA                             vqa.textvqa
    GQA                                 vqa.gqa                     (structural, semantic)
    POPE                                yes_no.pope                 (category, image)
    MME                                 yes_no.mme                  category, image
    ScienceQA                           letters.scienceqa           choices (subject, grade, hint, image)
    MMBench, MMBench-CN                 letters.mmbench             choices (index, category, l2-category)
    SEED-Bench                          letters.seed_bench          (data_type, question_type)
    Shot2Story, TextCaps, COCO          text.captions
    other generated text                text.overlap
    QVHighlights                        moments.moment_retrieval, moments.highlight_detection
    HVU                                 retrieval.hvu_map           candidates, categories
    HVU as Video-4096 has it            retrieval.hvu_retrieval     candidates, categories
    LLaVA-Bench, COCO and in the wild   reviews.relative_score      (category)
    MSVD-, MSRVTT-, ActivityNet-QA      reviews.video_qa
    Video-ChatGPT's generation          reviews.video_dialogue      category
    dense captions                      reviews.dense_captions      criterion (image)

A metric takes rows of `answered.Answered` and returns `answered.Scored`.
"""
