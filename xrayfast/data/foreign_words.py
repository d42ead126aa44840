"""Words in languages other than English in cells and folder names.

They stand for missing, normal, yes, no, splits and labels; for labels, the English words are included.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

_WORDS: Mapping[str, str] = {
    "missing": """desconocido desconocida sin-dato sin-datos sin-información no-disponible no-consta vacío no-aplica
        pendiente inconnu inconnue non-renseigné non-renseignée non-disponible manquant manquante vide
        unbekannt unbekannte keine-angabe keine-angaben k.a. fehlt fehlend leer nicht-bekannt
        nicht-verfügbar unklar ausstehend desconhecido desconhecida não-informado não-disponível
        sem-informação sem-dados ignorado em-branco sconosciuto sconosciuta ignoto non-noto mancante
        non-pervenuto onbekend ontbreekt leeg okänd okänt saknas ukendt ukjent mangler tuntematon puuttuu
        nieznany nieznana nieznane brak brak-danych neznámý ismeretlen necunoscut bilinmiyor άγνωστο
        неизвестно неизвестен нет-данных н/д 未知 不详 不詳 不明 缺失 待定 未記入 欠損 알수없음 미상
        غيرمعروف""",
    "normal": """normales sano sana sin-hallazgos sin-alteraciones sin-patología sain sans-anomalie
        sans-particularité r.a.s. ras aucune-anomalie gesund ohne-befund o.b. o.b.b. unauffällig kein-befund
        normalbefund saudável sem-achados sem-alterações normais sano senza-reperti nella-norma
        negativo-per-patologia normale gezond geen-afwijkingen geen-bijzonderheden normaal frisk
        utan-anmärkning normaali zdrowy prawidłowy bez-zmian norma sağlıklı норма нормальный здоров
        без-патологии 正常 健康 未见异常 未見異常 無異常 異常なし 정상 طبيعي سليم""",
    "yes": """sí sim oui ja vrai verdadero verdadeiro vero wahr positivo positiva positif positiv evet tak
        presente да 是 有 阳性 陽性 نعم إيجابي""",
    "no": """não non nein nee nej faux falso falsch negativo negativa négatif negativ hayır nie ausente нет 否 无
        無 阴性 陰性 لا سلبي""",
    "train": """entrenamiento entraînement apprentissage treino treinamento treinar addestramento allenamento lernen
        lerndaten lernmenge opleiding trening träning träna uczenie uczący treningowy trénovací eğitim
        обучение обучающая тренировка тренировочная 训练 訓練 训练集 學習 学習 学习 훈련 학습
        harjoitus koulutus tanító antrenare εκπαίδευση навчання навчальна pelatihan latih huấn-luyện
        تدريب التدريب آموزش प्रशिक्षण אימון ฝึก""",
    "valid": """validación validação validazione validatie validering walidacja walidacyjny doğrulama валидация
        проверочная 验证 驗證 验证集 検証 검증 validointi επικύρωση перевірка validasi
        xác-thực تحقق التحقق اعتبارسنجی सत्यापन אימות ตรวจสอบ""",
    "test": """prueba pruebas teste testes prüfung testdaten testowy testovací тест тестовая 测试 測試 测试集
        テスト 테스트 시험 testaus teszt δοκιμή тестова pengujian uji kiểm-tra
        اختبار الاختبار آزمون परीक्षण מבחן ทดสอบ""",
    "atelectasis": """atelectasis atelectasia atelectasie atélectasie atelektase atelettasia niedodma ателектаз 肺不张
        無気肺""",
    "cardiomegaly": """cardiomegaly cardiomegalia cardiomégalie kardiomegalie cardiomegalie herzvergrößerung
        kardiomegalia кардиомегалия 心脏增大 心影增大 心拡大 심비대""",
    "consolidation": "consolidation consolidación consolidação consolidamento konsolidierung консолидация 实变",
    "effusion": """effusion derrame derrame-pleural épanchement épanchement-pleural erguss pleuraerguss versamento
        versamento-pleurico pleuravocht wysięk выпот плевральный-выпот 胸腔积液 胸水 흉수""",
    "emphysema": "emphysema enfisema emphysème emphysem эмфизема 肺气肿 肺気腫 폐기종",
    "fibrosis": "fibrosis fibrose fibrosi fibrosis-pulmonar lungenfibrose фиброз 纤维化 線維化",
    "fracture": "fracture fractura fratura frattura fraktur fractuur złamanie перелом 骨折 골절",
    "hernia": "hernia hernie hérnia ernia грыжа 疝",
    "mass": "mass masa massa masse raumforderung образование 肿块 腫瘤 종괴",
    "nodule": "nodule nódulo nodulo knoten rundherd guzek узел 结节 結節 결절",
    "edema": "edema oedema œdème ödem lungenödem edema-pulmonar отек отёк 肺水肿 肺水腫 폐부종",
    "pneumonia": """pneumonia neumonía pneumonie lungenentzündung polmonite longontsteking lunginflammation
        zapalenie-płuc пневмония zatürre 肺炎 폐렴""",
    "pneumothorax": "pneumothorax neumotórax pneumotórax pneumotorace odma пневмоторакс 气胸 氣胸 気胸 기흉",
    "tuberculosis": """tuberculosis tuberculose tuberkulose tubercolosi tuberculosi tuberkulos gruźlica туберкулез
        туберкулёз tüberküloz verem 结核 肺结核 結核 결핵""",
}

SPLIT_STEMS: Mapping[str, str] = {
    "train": """train insample entren trein addestra allenam lernda lernme uczac treni trenov egitim обуч трениров 训练
        訓練 学習 学习 훈련 harjoit навчан latih huanluyen تدريب प्रशिक्षण אימון""",
    "valid": "valid verifica walida dogrulama валид проверо 验证 驗證 検証 검증 تحقق",
    "test": """test outofsample prueba pruf holdout heldout тест 测试 測試 テスト 테스트 시험 kiemtra
        اختبار परीक्षण מבחן""",
}
"""Beginnings or fragments of longer words for each split, in several languages."""


def fold_letters(text: str) -> str:
    """Return the letters and digits of a text without case and accents.

    >>> fold_letters("Non renseigné-e")
    'nonrenseignee'
    """
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", text).casefold()))


_MEANING = {fold_letters(word): meaning for meaning, words in _WORDS.items() for word in words.split()}

_STEMS = {split: tuple(map(fold_letters, words.split())) for split, words in SPLIT_STEMS.items()}


def foreign_meaning(text: str) -> str:
    """Return the meaning of a word in another language: a key of `_WORDS`, such as "missing" or "train"; else "".

    A text that is uncertain, such as "sí?", has none.
    """
    is_certain = len(text) <= 40 and "?" not in unicodedata.normalize("NFKC", text)
    return _MEANING.get(fold_letters(text), "") if is_certain else ""


def stem_of_split(text: str) -> str:
    """Return the split named by a word in the text, as in "jeu de test" and "conjunto-de-treino"; else ""."""
    folded = fold_letters(text)
    return next((split for split, stems in _STEMS.items() if any(stem in folded for stem in stems)), "")
